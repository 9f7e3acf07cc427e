"""The conductor: studies, ledger and store together, with made-up learning in place of Ray."""

import json
import random
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.tune.search import Searcher
from simulation import CHANCES, PLACE, SPACES, end, protocol, study

from lmc_ray.errors import UserError
from lmc_ray.learners import METHODS
from lmc_ray.store import Store
from lmc_ray.store.schemas import VERSION_KEY
from lmc_ray.sweep import Range, Study
from lmc_ray.sweep.cells import Block, Outcome, Pack, Place
from lmc_ray.sweep.conductor import MAX_FAILURES, Conductor
from lmc_ray.sweep.packs import Packing
from lmc_ray.sweep.script import superseded
from lmc_ray.sweep.study import Protocol, StudyRun
from lmc_ray.sweep.trainable import Workplace, stored_outcomes

STUDIES = [study("mcsgd"), study("multitask", trials=4), study("naive-sgd")]


def small(**changes: Any) -> Protocol:
    return protocol(**({"trials": 12, "generation": 3} | changes))


def commit(store: Store, sweep: str, pack: Pack, outcomes: dict[str, Outcome]) -> None:
    """What a worker leaves in the store at the end of a pack."""
    runs, accuracies = [], []
    of_cells = [(block, cell) for block in pack.blocks for cell in block.cells]
    for block, cell in of_cells:
        found = outcomes[cell.id]
        place = vars(cell.place)
        runs.append(
            {
                "cell_id": cell.id,
                "seed": cell.seed,
                "purpose": cell.purpose,
                "status": found.status,
                "study": block.study,
                "trial": block.trial,
                "method": cell.method,
                **place,
                "config": cell.config,
                "average_accuracy": found.value if found.status == "finished" else None,
            }
        )
        first = cell.place.tasks - len(found.curve) if cell.method == "multitask" else 0
        accuracies += [
            {
                "cell_id": cell.id,
                "seed": cell.seed,
                "minimum": METHODS[cell.method].learner.minimum,
                "after_task": first + task,
                "eval_task": 1,
                "split": cell.split,
                "accuracy": accuracy,
            }
            for task, accuracy in enumerate(found.curve, start=1)
        ]
    store.commit(sweep, uuid.uuid4().hex, {"runs": runs, "accuracies": accuracies})


def end_of(pack: Pack) -> dict[str, Outcome]:
    """What comes of all blocks of a pack."""
    return {cell: found for block in pack.blocks for cell, found in end(block).items()}


@dataclass
class Sweep:
    """A sweep of some studies in a root; `run` is one start of its driver."""

    root: Path
    name: str = "sweep"
    studies: Sequence[Study] = field(default_factory=lambda: STUDIES)
    protocol: Protocol = field(default_factory=small)
    stack: int = 2
    apart: int = 1
    places: Sequence[Place] = ()
    """Several benchmarks; none: the protocol's own."""
    several: bool = False
    memory: int = 10**6
    """Replicas that a worker has memory for."""

    @property
    def store(self) -> Store:
        return Store(str(self.root))

    def run(
        self,
        stop_after: int = 10**6,
        seed: int = 0,
        workers: int = 3,
        fails: Callable[[Block], bool] = lambda block: False,
    ) -> tuple[Conductor, list[Block]]:
        """Work through the packs in a random order; all is lost after some, as by kill -9."""
        chance = random.Random(seed)
        places = self.places or (self.protocol.place,)
        sources = {place.benchmark: place.benchmark for place in places}
        workplace = Workplace(self.name, str(self.root), None, sources)
        protocols = [replace(self.protocol, place=place) for place in places]
        studies = [StudyRun(each, how, self.stack) for how in protocols for each in self.studies]
        packings = dict.fromkeys(sources, Packing(self.stack, self.apart))
        conductor = Conductor(
            studies,
            self.store,
            workplace,
            CHANCES,
            packings,
            lambda ran: None,
            several=self.several,
        )
        conductor.start()
        running: dict[str, Pack] = {}
        ended: list[Block] = []
        waits = finished = False
        while not (finished and not running) and len(ended) < stop_after:
            start = not finished and not waits and len(running) < workers
            if start and (not running or chance.random() < 0.6):
                name = uuid.uuid4().hex
                config = conductor.suggest(name)
                finished = config == Searcher.FINISHED
                waits = config is None
                assert running or not waits, "all studies wait and nothing runs"
                if not finished and not waits:
                    assert config["workplace"] == workplace
                    running[name] = config["pack"]
                continue
            name = chance.choice(sorted(running))
            pack = running.pop(name)
            ended += pack.blocks
            waits = False
            if any(map(fails, pack.blocks)):
                conductor.on_trial_complete(name, error=True)
                continue
            if len(pack.cells) > self.memory:
                result = {"accuracy": 0.0, "task": 0, "too_large": len(pack.cells)}
                ended = ended[: -len(pack.blocks)]
            else:
                outcomes = end_of(pack)
                commit(self.store, self.name, pack, outcomes)
                result = {"accuracy": 0.5, "task": 4, "outcomes": list(outcomes.items())}
            conductor.on_trial_result(name, result)
            conductor.on_trial_complete(name, result)
        return conductor, ended

    def trials(self) -> list[tuple[Any, ...]]:
        with self.store.database(self.name) as database:
            columns = 'study, number, generation, state, params, value, "values", cells'
            sql = f"SELECT {columns}, pruned_at_task FROM trials ORDER BY study, number"
            return database.execute(sql).fetchall()

    def cells(self, purpose: str = "confirm") -> list[tuple[Any, ...]]:
        with self.store.database(self.name) as database:
            sql = "SELECT cell_id, status, study, trial, average_accuracy, config FROM runs"
            found = database.execute(f"{sql} WHERE purpose = ? ORDER BY ALL", [purpose])
            return found.fetchall()

    def results(self) -> tuple[Any, ...]:
        return self.trials(), self.cells("search"), self.cells("confirm")


def files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def copy(sweep: Sweep, root: Path) -> Sweep:
    """The same sweep in a root of its own."""
    shutil.copytree(sweep.root, root, dirs_exist_ok=True)
    return replace(sweep, root=root)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"))
    conductor, _ = sweep.run(workers=1)
    assert conductor.finished
    return sweep


def test_a_whole_sweep(undisturbed: Sweep) -> None:
    trials, cells = undisturbed.trials(), undisturbed.cells()
    numbers = {name: [t[1] for t in trials if t[0] == name] for name in SPACES}
    assert numbers["mcsgd"] == list(range(12))
    assert numbers["multitask"] == list(range(4))
    assert numbers["naive-sgd"] == []
    assert all(t[2] == t[1] // 3 for t in trials)
    assert {len(t[7]) for t in trials} == {2}
    assert len(cells) == 3 * 3
    searched = {cell for cell, *_ in undisturbed.cells("search")}
    assert {cell for t in trials for cell in t[7]} <= searched
    assert {t[3] for t in trials} == {"complete", "pruned"}
    assert not undisturbed.store.verify()
    for _, _, _, state, params, value, values, _, pruned_at in trials:
        assert json.loads(params)
        assert values == [value]
        assert (pruned_at is not None) == (state == "pruned")


@pytest.mark.parametrize("seed", range(3))
def test_any_order_and_any_number_of_kills_give_the_same_rows(
    undisturbed: Sweep, tmp_path: Path, seed: int
) -> None:
    sweep = Sweep(tmp_path)
    chance = random.Random(seed)
    blocks: list[Block] = []
    finished = False
    while not finished:
        stop = chance.choice([2, 7, 20])
        conductor, ended = sweep.run(stop, chance.random().__hash__(), chance.randint(1, 8))
        blocks += ended
        finished = conductor.finished
    assert sweep.results() == undisturbed.results()
    ran = [cell.id for block in blocks for cell in block.cells]
    assert len(ran) == len(set(ran)), "a committed cell ran again"
    assert not sweep.store.verify()


def test_the_same_name_again_runs_and_writes_nothing(undisturbed: Sweep) -> None:
    before = files(undisturbed.root)
    conductor, ended = undisturbed.run()
    assert conductor.finished
    assert ended == []
    assert files(undisturbed.root) == before
    assert conductor.done > 0


def test_a_lost_trials_file_is_written_again(undisturbed: Sweep, tmp_path: Path) -> None:
    """A driver killed between a generation's last cell and its trials leaves them to the next."""
    sweep = copy(undisturbed, tmp_path)
    for path in (tmp_path / "trials").rglob("*.parquet"):
        path.unlink()
    _, ended = sweep.run()
    assert ended == []
    assert sweep.results() == undisturbed.results()


def test_another_name_in_the_same_root_links_every_cell(undisturbed: Sweep, tmp_path: Path) -> None:
    one, other = copy(undisturbed, tmp_path), Sweep(tmp_path, "other")
    pruned = [cell for cell, status, *_ in one.cells("search") if status == "pruned"]
    assert pruned
    conductor, ended = other.run()
    assert conductor.finished
    # What was pruned is no result of its specification alone: it runs again, and ends alike.
    assert sorted(cell.id for block in ended for cell in block.cells) == sorted(pruned)
    assert other.results() == one.results()
    with other.store.database("other") as database:
        sql = "SELECT DISTINCT reused_from FROM runs WHERE status <> 'pruned'"
        assert database.execute(sql).fetchall() == [("sweep",)]
        rows = "SELECT count(*) FROM accuracies JOIN runs USING (sweep, cell_id)"
        count = database.execute(rows).fetchone()
    with other.store.database("sweep") as database:
        assert database.execute(rows).fetchone() == count
    third = Sweep(tmp_path, "third")
    third.run()
    with third.store.database("third") as database:
        assert database.execute(sql).fetchall() == [("sweep",)]  # the origin, not the last link
    assert not other.store.verify()


def test_cells_found_elsewhere_change_no_trial(undisturbed: Sweep, tmp_path: Path) -> None:
    """A root that holds the same cells of a search without pruning gives the same sweep."""
    free = Sweep(tmp_path, "free")
    workplace = Workplace("free", str(tmp_path), None, {"rotated-digits": "rotated-digits"})
    for each in STUDIES:
        run = StudyRun(each, free.protocol, 2)
        for trial in [t for t in undisturbed.trials() if t[0] == each.method]:
            values = json.loads(trial[4])
            block = run._block(trial[1], values, range(10_000, 10_002))
            commit(free.store, workplace.sweep, Pack((block,)), end(block))
    sweep = Sweep(tmp_path)
    conductor, _ = sweep.run()
    assert conductor.finished
    assert sweep.trials() == undisturbed.trials()
    assert [cell[0] for cell in sweep.cells()] == [cell[0] for cell in undisturbed.cells()]


def test_a_block_half_found_elsewhere_is_pruned_as_a_whole(
    undisturbed: Sweep, tmp_path: Path
) -> None:
    free = Sweep(tmp_path, "free")
    for each in STUDIES:
        run = StudyRun(each, free.protocol, 2)
        for trial in [t for t in undisturbed.trials() if t[0] == each.method]:
            first = run._block(trial[1], json.loads(trial[4]), range(10_000, 10_001))
            commit(free.store, "free", Pack((first,)), end(first))
    sweep = Sweep(tmp_path)
    conductor, ended = sweep.run()
    assert conductor.finished
    halves = [block for block in ended if block.trial is not None and len(block.cells) == 1]
    assert halves
    assert not any(block.prune_below for block in halves), "limits are for the mean of all seeds"
    assert sweep.trials() == undisturbed.trials()
    assert [cell[0] for cell in sweep.cells()] == [cell[0] for cell in undisturbed.cells()]


# Another sweep's name

OTHERS: dict[str, dict[str, Any]] = {
    "range": {"studies": [study("mcsgd", space={"learning_rate": Range(0.02, 1.0)})]},
    "choices": {"studies": [study("mcsgd", space={"learning_rate": [0.1, 0.2]})]},
    "fixed value": {"studies": [study(each.method, space={**each.space, "epochs": 2})
                                for each in STUDIES]},
    "fixed value of the last": {"studies": [*STUDIES[:2], study("naive-sgd", space={"epochs": 2})]},
    "tasks": {"protocol": small(place=replace(PLACE, tasks=5))},
    "network": {"protocol": small(place=replace(PLACE, network="mlp-8-4"))},
    "data": {"protocol": small(place=replace(PLACE, fingerprint="11" * 32))},
    "search seeds": {"protocol": small(search_seeds=1)},
    "sweep seed": {"protocol": small(sweep_seed=1)},
    "trials proposed together": {"protocol": small(generation=4)},
    "a study's name": {"studies": [study("mcsgd", label="brief"), *STUDIES[1:]]},
    "first settings": {"studies": [study("mcsgd", first=[{"learning_rate": 0.3}]), *STUDIES[1:]]},
}  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two blocks have ended: no generation is whole."""
    sweep = Sweep(tmp_path_factory.mktemp("begun"))
    sweep.run(2, workers=4)
    return sweep


# Of these a sweep that has hardly begun does not know yet.
LATE = ("fixed value of the last", "search seeds", "trials proposed together")
EARLY = [change for change in OTHERS if change not in LATE]


@pytest.mark.parametrize(
    ("stage", "change"),
    [("undisturbed", change) for change in OTHERS] + [("begun", change) for change in EARLY],
)
def test_a_foreign_name_is_refused_before_anything_runs(
    request: pytest.FixtureRequest, stage: str, change: str
) -> None:
    mine: Sweep = request.getfixturevalue(stage)
    before = files(mine.root)
    with pytest.raises(UserError, match=r"made with other options .*choose another --name") as told:
        replace(mine, **OTHERS[change]).run()
    assert "\n" not in str(told.value)
    assert files(mine.root) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": small(trials=18)},
        {"protocol": small(seeds=7)},
        {"protocol": small(trials=6)},
        {"stack": 1},
        {"stack": 8},
        {"studies": STUDIES[:2]},
        {"studies": [*STUDIES[::-1]]},
    ],
)
def test_more_of_the_same_is_welcome(
    undisturbed: Sweep, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """More trials or seeds, other stacks, another order of methods: the same sweep goes on."""
    conductor, _ = replace(copy(undisturbed, tmp_path), **changes).run()
    assert conductor.problem is None
    assert conductor.finished


@pytest.mark.parametrize("stop", [1, 2, 4, 6])
def test_a_searched_hyperparameter_that_came_later_is_its_default_where_none_is_stored(
    tmp_path: Path, stop: int
) -> None:
    """Cells with its default leave it out, so that they are the cells of before."""
    space = {"memory_per_class": 1, "replay_batch_size": [0, 10], "momentum": [0.5, 0.8]}
    sweep = Sweep(tmp_path, studies=[Study(method="er-mcsgd", space=space)])
    sweep.run(stop)
    conductor, _ = sweep.run()
    assert conductor.finished
    tried = [json.loads(trial[4])["replay_batch_size"] for trial in sweep.trials()]
    assert set(tried) == {0, 10}


def test_what_came_later_is_compared_where_cells_leave_it_out(tmp_path: Path) -> None:
    Sweep(tmp_path, studies=[Study(method="mcsgd")]).run()
    other = Sweep(tmp_path, studies=[Study(method="mcsgd", space={"replay_batch_size": 10})])
    with pytest.raises(UserError, match="mcsgd: replay_batch_size was 0, is 10 now"):
        other.run()


def test_what_fewer_trials_have_chosen_is_told(tmp_path: Path) -> None:
    """It stays in the tables, where the better test accuracy must not choose."""
    sweep = Sweep(tmp_path, protocol=small(trials=6))
    before, _ = sweep.run()
    with sweep.store.database("sweep") as database:
        assert superseded(database, before.studies) == []
    after, _ = replace(sweep, protocol=small(trials=18)).run()
    changed = [
        new.study.title
        for old, new in zip(before.studies, after.studies, strict=True)
        if old.chosen != new.chosen
    ]
    with sweep.store.database("sweep") as database:
        told = superseded(database, after.studies)
    assert changed
    assert [title for title, _ in told] == changed


@pytest.mark.parametrize("pareto", [False, True])
def test_another_objective_is_another_sweep(tmp_path: Path, pareto: bool) -> None:
    space = {"memory_per_class": Range(1, 4), "momentum": [0.5, 0.8]}
    sweep = Sweep(
        tmp_path,
        studies=[Study(method="mcsgd", space=space)],
        protocol=small(pareto=pareto),
    )
    sweep.run()
    with pytest.raises(UserError, match="mcsgd: --pareto"):
        replace(sweep, protocol=small(pareto=not pareto)).run()


def test_labelled_studies_go_on_as_they_were(tmp_path: Path) -> None:
    studies = [
        Study(method="mcsgd", space={"connect_momentum": [0.1, 0.5, 0.8]}),
        Study(method="mcsgd", label="few", space={"connect_momentum": 0.9, "dropout": [0.0, 0.1]}),
    ]
    whole = Sweep(tmp_path / "whole", studies=studies)
    assert whole.run()[0].finished
    assert {trial[0] for trial in whole.trials()} == {"mcsgd", "few"}
    assert {cell[2] for cell in whole.cells("confirm")} == {"mcsgd", "few"}
    pieces = Sweep(tmp_path / "pieces", studies=studies)
    for stop in (3, 5):
        pieces.run(stop, seed=stop)
    assert replace(pieces, studies=studies[1:]).run(2)[0].problem is None
    assert pieces.run()[0].finished
    assert pieces.results() == whole.results()
    other = [studies[0], replace(studies[1], method="er-mcsgd")]
    with pytest.raises(UserError, match="few: its method was mcsgd, is er-mcsgd now"):
        replace(pieces, studies=other).run()


# Several benchmarks

OTHER_PLACE = replace(PLACE, benchmark="permuted-digits", angle=None, fingerprint="22" * 32)


def tried(sweep: Sweep, benchmark: str) -> list[tuple[Any, ...]]:
    with sweep.store.database(sweep.name) as database:
        sql = "SELECT * EXCLUDE (sweep, attempt) FROM tried WHERE benchmark = ? ORDER BY ALL"
        return database.execute(sql, [benchmark]).fetchall()


def ran(sweep: Sweep, benchmark: str) -> list[tuple[Any, ...]]:
    with sweep.store.database(sweep.name) as database:
        sql = """
            SELECT cell_id, purpose, status, study, trial, average_accuracy FROM runs
            WHERE benchmark = ? ORDER BY ALL
        """
        return database.execute(sql, [benchmark]).fetchall()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Two benchmarks under one name, with some kills on the way."""
    root = tmp_path_factory.mktemp("both")
    sweep = Sweep(root, places=(PLACE, OTHER_PLACE), several=True)
    for seed, stop in enumerate((3, 20, 45, 10**6)):
        conductor, _ = sweep.run(stop, seed=seed)
    assert conductor.finished
    return sweep


@pytest.mark.parametrize("place", [PLACE, OTHER_PLACE], ids=lambda place: place.benchmark)
def test_each_benchmark_is_as_in_a_sweep_of_its_own(
    both: Sweep, tmp_path: Path, place: Place
) -> None:
    alone = Sweep(tmp_path, places=(place,))
    alone.run(workers=1)
    where = place.benchmark
    assert len(tried(alone, where)) == 16
    assert tried(both, where) == tried(alone, where)
    assert ran(both, where) == ran(alone, where)


def test_a_sweep_may_be_narrowed_and_gain_a_benchmark(both: Sweep, tmp_path: Path) -> None:
    one = Sweep(tmp_path, places=(OTHER_PLACE,), several=True)
    one.run()
    more = replace(one, places=both.places)
    _, ended = more.run()
    assert {block.cells[0].place for block in ended} == {PLACE}
    assert more.results() == both.results()
    before = files(tmp_path)
    for narrow in (one, replace(one, places=(PLACE,)), more):
        conductor, ended = narrow.run()
        assert conductor.finished
        assert ended == []
    assert files(tmp_path) == before


@pytest.mark.parametrize("places", [(PLACE,), (OTHER_PLACE,)])
def test_a_script_for_one_benchmark_refuses_the_name_of_several(
    both: Sweep, places: tuple[Place, ...]
) -> None:
    before = files(both.root)
    with pytest.raises(UserError, match=r"\(.*: benchmark was .*-digits, is .*-digits now\)"):
        replace(both, places=places, several=False).run()
    assert files(both.root) == before


def without_benchmark(rows: pa.Table) -> pa.Table:
    """As version 3 wrote trials."""
    metadata = {**rows.schema.metadata, VERSION_KEY: b"3"}
    return rows.drop_columns(["benchmark"]).replace_schema_metadata(metadata)


def test_an_old_sweep_goes_on_and_gains_a_benchmark(
    undisturbed: Sweep, both: Sweep, tmp_path: Path
) -> None:
    """Its trials name no benchmark: the one that it had is meant."""
    old = copy(undisturbed, tmp_path)
    for path in (tmp_path / "trials").rglob("*.parquet"):
        pq.write_table(without_benchmark(pq.ParquetFile(path).read()), path)
    before = files(tmp_path)
    assert old.run()[1] == []
    assert files(tmp_path) == before
    more = replace(old, places=(OTHER_PLACE, PLACE), several=True)
    _, ended = more.run()
    assert {block.cells[0].place for block in ended} == {OTHER_PLACE}
    for place in more.places:
        assert tried(more, place.benchmark) == tried(both, place.benchmark)
    assert len(more.trials()) == 2 * 16, "an old trial was written again"


def test_an_old_trial_whose_cells_all_failed_is_not_tried_again(tmp_path: Path) -> None:
    only = Sweep(tmp_path, studies=[study("stable-sgd")], protocol=small(trials=5, rerank=0))
    only.run(fails=lambda block: True)
    for path in (tmp_path / "trials").rglob("*.parquet"):
        pq.write_table(without_benchmark(pq.ParquetFile(path).read()), path)
    conductor, ended = only.run()
    assert conductor.finished
    assert ended == []


def test_every_benchmark_has_its_own_chance(tmp_path: Path) -> None:
    """A diverged cell is told as a guess, and how good that is depends on the classes."""
    store, chances = Store(str(tmp_path)), {"rotated-digits": 0.1, "permuted-digits": 0.01}
    told: dict[str, Outcome] = {}
    for place in (PLACE, OTHER_PLACE):
        block = StudyRun(study("naive-sgd"), small(place=place), 1).next()
        assert block is not None
        found = {cell.id: Outcome("diverged", chances[place.benchmark], ()) for cell in block.cells}
        commit(store, "sweep", Pack((block,)), found)
        told |= found
    assert stored_outcomes(store, "sweep", chances) == told
    assert len(stored_outcomes(store, "sweep", {"rotated-digits": 0.1})) == 1


# Failures


UNLUCKY = {("mcsgd", 1), ("mcsgd", 7)}


def unlucky(block: Block) -> bool:
    return (block.study, block.trial) in UNLUCKY and block.cells[0].seed == 10_000


def test_a_failed_block_is_told_and_the_rest_runs(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    conductor, _ = sweep.run(fails=unlucky)
    assert conductor.finished
    assert {(block.study, block.trial) for block in conductor.failed} == {
        ("mcsgd", 1),
        ("mcsgd", 7),
    }
    states = {(study, number): state for study, number, _, state, *_ in sweep.trials()}
    assert {key for key, state in states.items() if state == "failed"} == UNLUCKY
    assert len(states) == 16
    assert len(sweep.cells()) == 9


def test_a_sweep_with_a_failed_trial_can_go_on(tmp_path: Path) -> None:
    """Later proposals rest on the failure, so it stands; what was left over is completed."""
    whole = Sweep(tmp_path / "whole", protocol=small(trials=18))
    whole.run(fails=unlucky)
    cut = replace(whole, root=tmp_path / "cut")
    cut.run(14, fails=unlucky, workers=1)
    conductor, _ = cut.run(fails=unlucky)
    assert conductor.problem is None
    assert conductor.finished
    assert cut.results() == whole.results()
    before = files(cut.root)
    conductor, ended = cut.run()
    assert conductor.finished
    assert ended == []
    assert files(cut.root) == before


def test_a_failed_trial_stays_so_when_another_sweep_has_had_more_luck(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, protocol=small(trials=18))
    sweep.run(fails=unlucky)
    trials, results = sweep.trials(), sweep.results()
    assert replace(sweep, name="luckier").run()[0].finished
    conductor, ended = sweep.run()
    assert conductor.finished
    assert (sweep.trials(), sweep.results(), ended) == (trials, results, [])


def test_a_failed_confirmation_is_tried_again(undisturbed: Sweep, tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    conductor, _ = sweep.run(fails=lambda block: block.trial is None and block.study == "mcsgd")
    assert conductor.finished
    assert len(conductor.failed) == 2
    conductor, ended = sweep.run()
    assert len(ended) == 2
    assert sweep.results() == undisturbed.results()


def test_a_failed_last_block_leaves_whole_trials(tmp_path: Path) -> None:
    """The trials of a generation are written when its last block fails, too."""
    only = [study("stable-sgd")]
    sweep = Sweep(tmp_path, studies=only, protocol=small(trials=5, rerank=0))
    conductor, _ = sweep.run(fails=lambda block: True)
    assert conductor.finished
    assert [state for _, _, _, state, *_ in sweep.trials()] == ["failed"] * 5


# Packs


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep that searches numeric hyperparameters alone, and choices in a second study."""
    numeric = {"learning_rate": Range(0.01, 2.0, log=True), "dropout": Range(0.0, 0.5)}
    studies = [study("mcsgd", space=numeric), study("stable-sgd")]
    root = tmp_path_factory.mktemp("unpacked")
    sweep = Sweep(root, studies=studies, protocol=small(trials=18, generation=6))
    conductor, _ = sweep.run(workers=1)
    assert conductor.finished
    assert {trial[3] for trial in sweep.trials()} >= {"complete", "pruned"}
    return sweep


@pytest.mark.parametrize("stack", [1, 5, 8, 64])
@pytest.mark.parametrize("apart", [1, 3])
def test_packed_or_not_it_is_the_same_sweep(
    unpacked: Sweep, tmp_path: Path, stack: int, apart: int
) -> None:
    sweep = replace(unpacked, root=tmp_path, stack=stack, apart=apart)
    conductor, _ = sweep.run(seed=stack)
    assert conductor.finished
    assert sweep.results() == unpacked.results()
    packs = len(list((tmp_path / "runs").rglob("*.parquet")))
    if stack == 1:
        assert conductor.done == packs
    if stack == 64:
        assert conductor.done > 1.5 * packs, "hardly anything was packed"


@pytest.mark.parametrize(("stack", "memory"), [(64, 10), (6, 4), (3, 2), (6, 1)])
def test_stacks_too_large_for_the_memory_are_halved(
    unpacked: Sweep, tmp_path: Path, stack: int, memory: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Down to single seeds of a configuration, if it must be; the trials are the same.

    So are the rows while a configuration's seeds stay together: apart, they are pruned afterwards.
    """
    sweep = replace(unpacked, root=tmp_path, stack=stack, memory=memory)
    with caplog.at_level("INFO"):
        conductor, ended = sweep.run(seed=stack)
    assert conductor.finished
    assert not conductor.failed
    assert sweep.trials() == unpacked.trials()
    if memory > 1:
        assert sweep.results() == unpacked.results()
    _, searched, confirmed = sweep.results()
    ran = sum(len(block.cells) for block in ended)
    assert ran == len(searched) + len(confirmed), "a cell ran twice"
    assert 1 <= conductor.fits[PLACE.benchmark] <= memory
    said = caplog.text.count("out of memory with")
    assert 1 <= said <= stack * 3 + 1, "what is known of the memory was not used again"


def test_one_replica_without_memory_has_failed(tmp_path: Path) -> None:
    conductor, _ = Sweep(tmp_path, memory=0, stack=4).run()
    assert len(conductor.failed) > 1
    assert conductor.too_large
    assert not Sweep(tmp_path / "lost").run(fails=lambda block: True)[0].too_large


@pytest.mark.parametrize("seed", range(3))
def test_killed_and_packed_otherwise_it_goes_on(unpacked: Sweep, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    ran: list[str] = []
    finished = False
    while not finished:
        packing = {"stack": chance.choice([1, 2, 6, 64]), "apart": chance.randint(1, 4)}
        sweep = replace(unpacked, root=tmp_path, **packing)
        stop = chance.choice([2, 7, 20])
        conductor, ended = sweep.run(stop, chance.random().__hash__(), chance.randint(1, 4))
        ran += [cell.id for block in ended for cell in block.cells]
        finished = conductor.finished
    assert replace(unpacked, root=tmp_path).results() == unpacked.results()
    assert len(ran) == len(set(ran)), "a committed cell ran again"


@pytest.mark.parametrize("apart", [1, 2])
def test_killed_and_packed_alike_it_has_the_same_stacks(
    unpacked: Sweep, tmp_path: Path, apart: int
) -> None:
    """Or the last bits of its numbers would tell of the kill, and checkpoints would be in vain."""

    def stacks(sweep: Sweep) -> list[list[str]]:
        with sweep.store.database() as database:
            sql = "SELECT list_sort(list(cell_id)) FROM runs GROUP BY attempt ORDER BY ALL"
            return [cells for (cells,) in database.execute(sql).fetchall()]

    whole = replace(unpacked, root=tmp_path / "whole", stack=6, apart=apart)
    whole.run()
    killed = replace(whole, root=tmp_path / "killed")
    chance = random.Random(apart)
    while not killed.run(chance.randint(1, 9), chance.randint(0, 99), 3)[0].finished:
        pass
    assert stacks(killed) == stacks(whole)
    assert max(map(len, stacks(whole))) == 6


def driver(root: Path, stack: int, *studies: Study, **changes: Any) -> Conductor:
    """A conductor at its start, with its packing."""
    runs = [StudyRun(each, small(**changes), stack) for each in studies]
    workplace = Workplace("sweep", str(root), None, {PLACE.benchmark: PLACE.benchmark})
    conductor = Conductor(
        runs,
        Store(str(root)),
        workplace,
        CHANCES,
        {PLACE.benchmark: Packing(stack)},
        lambda ran: None,
    )
    conductor.start()
    return conductor


def test_every_proposal_of_a_pack_is_told_its_own_outcome(tmp_path: Path) -> None:
    conductor = driver(tmp_path, 64, study("multitask"))
    pack = conductor.suggest("one")["pack"]
    assert [block.trial for block in pack.blocks] == [0, 1, 2], "a generation"
    assert [block.trial for block in conductor.suggest("two")["pack"].blocks] == [3, 4, 5]
    assert conductor.suggest("three") is None
    outcomes = end_of(pack)
    commit(Store(str(tmp_path)), "sweep", pack, outcomes)
    result = {"accuracy": 0.5, "task": 4, "outcomes": list(outcomes.items())}
    conductor.on_trial_complete("one", result)
    values = set()
    for block, proposal in zip(pack.blocks, conductor.studies[0].proposals, strict=False):
        assert proposal.trial is not None
        own = [outcomes[cell.id].value for cell in block.cells]
        assert proposal.trial.values == (sum(own) / 2,)
        values.add(proposal.trial.values)
    assert len(values) == 3
    assert conductor.done == 3


def test_pruned_by_another_kind_of_sweep_is_not_pruned(tmp_path: Path) -> None:
    """With few trials both kinds propose the same, but only one has limits for them."""
    few = small(trials=10, generation=5, seeds=0)
    sweep = Sweep(tmp_path, studies=[study()], protocol=replace(few, asynchronous=True))
    sweep.run(workers=1)
    states = {state for _, _, _, state, *_ in sweep.trials()}
    assert "pruned" in states
    with pytest.raises(UserError, match="made with other options"):
        replace(sweep, protocol=few).run()


def test_a_pack_that_fails_has_failed_for_every_block(tmp_path: Path) -> None:
    conductor = driver(tmp_path, 4, study("multitask"))
    pack = conductor.suggest("one")["pack"]
    assert len(pack.blocks) == 2
    conductor.on_trial_complete("one", error=True)
    assert not conductor.failed, "Tune does not try again where the worker was to be used again"
    assert conductor.suggest("two")["pack"] == pack
    conductor.recovered["two"] = MAX_FAILURES - 1  # by Tune
    conductor.on_trial_complete("two", error=True)
    assert conductor.failed == list(pack.blocks)
    assert conductor.given_up == ["two"]
    states = [each.trial and each.trial.state for each in conductor.studies[0].proposals[:3]]
    assert states == ["failed"] * 2 + [None]


def test_what_is_there_already_changes_no_stack(tmp_path: Path) -> None:
    """A cell of one block, and another block as a whole: their packs lack them, no more."""
    run = StudyRun(study("multitask"), small(generation=6), 2)
    blocks = [block for _ in range(4) if (block := run.next())]
    half = replace(blocks[1], cells=blocks[1].cells[:1])
    commit(Store(str(tmp_path)), "sweep", Pack((half, blocks[2])), end(half) | end(blocks[2]))
    conductor = driver(tmp_path, 4, study("multitask"), generation=6)
    one, two = (conductor.suggest(name)["pack"] for name in ("one", "two"))
    assert [block.trial for block in one.blocks] == [0, 1]
    assert [cell.seed for cell in one.cells] == [10_000, 10_001, 10_001]
    assert two.blocks == (blocks[3],)
    for name, pack in (("one", one), ("two", two)):
        outcomes = list(end_of(pack).items())
        conductor.on_trial_complete(name, {"accuracy": 0.5, "task": 4, "outcomes": outcomes})
    assert all(proposal.trial for proposal in conductor.studies[0].proposals[:4])


def test_an_asynchronous_study_proposes_no_more_than_fills_a_stack(tmp_path: Path) -> None:
    conductor = driver(tmp_path, 6, study("multitask"), asynchronous=True)
    assert len(conductor.suggest("one")["pack"].blocks) == 3
    assert len(conductor.studies[0].proposals) == 3


# Modes


def test_pareto(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, protocol=small(pareto=True))
    conductor, _ = sweep.run()
    assert conductor.finished
    pairs = [t[6] for t in sweep.trials() if t[0] == "mcsgd" and t[3] == "complete"]
    assert {len(pair) for pair in pairs} == {2}
    assert {t[5] for t in sweep.trials() if t[0] == "mcsgd"} == {None}
    before = files(tmp_path)
    assert sweep.run()[1] == []
    assert files(tmp_path) == before


@pytest.mark.parametrize("stop", [4, 13, 10**6])
def test_asynchronous_goes_on_under_its_name(tmp_path: Path, stop: int) -> None:
    """It is not repeatable, but what it has proposed stays proposed."""
    sweep = Sweep(tmp_path, studies=STUDIES[:1], protocol=small(trials=16, asynchronous=True))
    sweep.run(stop, seed=1, workers=4)
    searched = {cell[0] for cell in sweep.cells("search")}
    rows = sweep.trials()
    conductor, _ = sweep.run(seed=2, workers=2)
    assert conductor.problem is None
    assert conductor.finished
    trials = sweep.trials()
    assert len(trials) == 16
    assert [trial for trial in trials if trial in rows] == rows
    first_seeds = {cell for trial in trials for cell in trial[7]}
    lost = searched - {cell[0] for cell in sweep.cells("search")}
    assert not lost
    numbers: dict[tuple[str, int], set[str]] = {}
    for cell, _, name, number, _, _ in sweep.cells("search"):
        if cell in first_seeds:
            numbers.setdefault((name, number), set()).add(cell)
    assert all(len(cells) == 2 for cells in numbers.values()), "a trial with two configurations"
    before = files(tmp_path)
    assert sweep.run(seed=3)[1] == []
    assert files(tmp_path) == before
