"""The Ray Tune trainable: one pack of blocks on one worker, one step a task."""

import json
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from statistics import fmean
from typing import Any

import torch
from ray import get_gpu_ids, is_initialized, tune

from lmc_ray.benchmarks import Benchmark, Part, load
from lmc_ray.device import choose_device
from lmc_ray.errors import UnavailableError, UserError
from lmc_ray.learners import METHODS, Method, Setting
from lmc_ray.learners.hyperparameters import SGD
from lmc_ray.metrics import accuracy_curve
from lmc_ray.models import build
from lmc_ray.models.weights import to_bytes
from lmc_ray.store import Store, weights
from lmc_ray.store.files import one_line
from lmc_ray.store.parquet import digest
from lmc_ray.store.presence import check_flag
from lmc_ray.store.schemas import TABLES
from lmc_ray.sweep.backoff import DEFAULT_PATIENCE, Backoff, reached
from lmc_ray.sweep.cells import PROTOCOL, Block, Cell, Outcome, Pack, Place, outcome
from lmc_ray.sweep.checkpoints import Checkpoints
from lmc_ray.training import Measurement, Record, Training, chance_accuracy
from lmc_ray.version import git_commit, version


@dataclass(frozen=True)
class Workplace:
    """Where a worker finds its data and puts its results."""

    sweep: str
    results: str
    data: str | None
    sources: Mapping[str, str]
    """How to open each benchmark, by its name; own data sets are opened by path."""
    threads: int = 1
    patience: float = DEFAULT_PATIENCE
    """Seconds to wait for a results root that cannot be written."""
    methods: Mapping[str, Method] = field(default_factory=dict)
    """The driver's own (see `learners.register`)."""


class StackTrainable(tune.Trainable):
    """Multitask, continual or MC-SGD training of one `Pack`, whichever its cells ask for.

    A step learns one task and measures. A checkpoint after it holds all that is needed to go on,
    on this worker or another, under this driver or the next. The last step commits the cells' rows,
    all or none, and only then reports the end. Where the root cannot be written, it says so instead
    and the next step tries again, until patience is at its end.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start on the pack in `config["pack"]` at the `config["workplace"]`."""
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Reuse this actor, with nothing left of the pack before."""
        self._start(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Learn the next task; at the end commit and report the cells' outcomes.

        Beside accuracy and task there may be: `resumed` (after which task this worker took the
        pack up), `outcomes` (committed), `waits` (not yet, and why), `lost` (not at all, and why),
        `mistake` (nothing can be done here before the user has mended it), `too_large` (how many
        replicas the device has no memory for).
        """
        nothing = {"accuracy": 0.0, "task": 0, "done": True}
        if self.mistake is not None:
            return nothing | {"mistake": self.mistake}
        if self.too_large:  # no less so with what it had learned
            self.checkpoints.remove(self.pack)
            return nothing | {"too_large": len(self.pack.cells)}
        if self.lost is not None:
            return nothing | {"lost": f"{self.lost}, on node {socket.gethostname()}"}
        try:
            self._learn()
        except torch.OutOfMemoryError:
            self.checkpoints.remove(self.pack)
            return nothing | {"too_large": len(self.pack.cells)}
        except UserError as problem:  # such as a full disk below the cache; as in `_start`
            return nothing | {"mistake": str(problem)}
        training = self.training
        accuracy = fmean(training.accuracy(record) for record in training.records)
        result = {"accuracy": accuracy, "task": training.task, "resumed": self.resumed}
        return result | self._commit() if training.finished else result

    def _start(self, config: dict[str, Any]) -> None:
        self.workplace: Workplace = config["workplace"]
        METHODS.update(self.workplace.methods)
        self.pack: Pack = config["pack"]
        self.started_at = datetime.now(UTC)
        self.resumed: int | None = None
        self.backoff = Backoff(self.workplace.patience)
        self.rows: dict[str, list[Any]] = {}
        self.weights: dict[str, bytes] = {}
        """Files of weights to be written, by their place in the root."""
        self.attempt = uuid.uuid4().hex
        torch.set_num_threads(self.workplace.threads)
        first = self.pack.cells[0]
        self.mistake: str | None = None
        self.lost: str | None = None
        self.too_large = False
        vars(self).pop("training", None)  # the pack before: its images may fill the device
        try:
            check_code(first)
            benchmark = benchmark_at(self.workplace, first.place)
        except UserError as problem:  # not an error for Ray, which would only try it again
            self.mistake = str(problem)
            return
        where = self.workplace.results, self.workplace.sweep
        try:  # an object store is asked where it is
            self.checkpoints = reached(lambda: Checkpoints(*where), self.workplace.patience)
        except UnavailableError as problem:
            self.lost = str(problem)
            return
        except UserError as problem:
            self.mistake = str(problem)
            return
        state = self.checkpoints.load(self.pack)
        try:
            self.training = training_of(self.pack, benchmark)
            if state:
                self.training.restore(state["training"])
        except torch.OutOfMemoryError:
            self.too_large = True
            return
        if state:
            self.started_at = state["started_at"]
            self.resumed = self.training.task

    def _learn(self) -> None:
        """One task, then the comparison with other trials, then a checkpoint."""
        training = self.training
        if training.finished:  # what is left is to commit it
            return
        training.step()
        for block, places in self.pack.places:
            limit = block.prune_below[training.task - 1] if block.prune_below else None
            accuracy = fmean(training.accuracy(training.records[place]) for place in places)
            if limit is not None and accuracy < limit:
                training.prune(places)
        if training.finished:
            self.rows = pack_rows(self.pack, training, self.started_at)
            self.rows["minima"], self.weights = self._minima()
        else:
            state = {"training": training.state(), "started_at": self.started_at}
            # A pack without a checkpoint starts anew, no more.
            with suppress(OSError, UnavailableError):
                self.checkpoints.save(self.pack, state)

    def _minima(self) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
        """The rows of `minima` of a pack that has ended, and the files that they name."""
        rows, files = [], {}
        for cell, record in zip(self.pack.cells, self.training.records, strict=True):
            for (minimum, task), theta in self.training.minima(record).items():
                name = f"{cell.id}-{minimum}-{task}"
                where = weights.uri(self.workplace.sweep, self.attempt, name)
                about = {"cell_id": cell.id, "minimum": minimum, "task": str(task)}
                data = files[where] = to_bytes(self.training.setting.network, theta, about)
                written = {"uri": where, "sha256": digest(data), "bytes": len(data)}
                own = {"cell_id": cell.id, "seed": cell.seed}
                rows.append(own | {"minimum": minimum, "task": task} | written)
        return rows, files

    def _commit(self) -> dict[str, Any]:
        """Try to make the rows visible; what the driver is told of it."""
        try:
            store = Store(self.workplace.results)
            check_flag(store.root)
            for where, data in self.weights.items():
                store.write_weights(where, data)
            store.commit(self.workplace.sweep, self.attempt, self.rows)
            check_flag(store.root)  # else it went somewhere that nobody will look at
        except (OSError, UnavailableError) as problem:
            # The driver has made sure that all nodes see the root, but for those that came late.
            reason = f"{one_line(problem)}, on node {socket.gethostname()}"
            return {"waits": reason} if self.backoff.wait() else {"done": True, "lost": reason}
        self.checkpoints.remove(self.pack)
        # A list, because Tune takes dictionaries in results apart.
        return {"done": True, "outcomes": list(outcomes(self.pack, self.training).items())}


def benchmark_at(workplace: Workplace, place: Place) -> Benchmark:
    """The benchmark, opened once a worker.

    Raises:
        UserError: this node's data differ from the driver's.
    """
    return _opened(workplace.sources[place.benchmark], workplace.data, place)


@lru_cache(maxsize=4)
def _opened(source: str, data: str | None, place: Place) -> Benchmark:
    benchmark = load(
        source,
        tasks=place.tasks,
        data=data,
        angle=place.angle,
        classes_per_task=place.classes_per_task,
    )
    if benchmark.fingerprint != place.fingerprint:
        raise UserError(
            f"the data of {place.benchmark} on node {socket.gethostname()} differ from the"
            " driver's: give all nodes the same files"
        )
    return benchmark


def check_code(cell: Cell) -> None:
    """A nightly cell names the code that it is to measure: this worker must have the same.

    Raises:
        UserError: it has other code than the driver.
    """
    if cell.version not in (None, version()):
        raise UserError(
            f"node {socket.gethostname()} has lmc-ray {version()}, the driver {cell.version}:"
            " install the same on all nodes"
        )


def setting_of(place: Place, benchmark: Benchmark, part: Part) -> Setting:
    """Where a cell's networks learn or are measured: on a GPU where this worker has one."""
    return Setting(
        benchmark=benchmark,
        network=build(place.network, benchmark.image_shape, benchmark.classes),
        part=part,
        device=_device(),
        dtype=getattr(torch, place.dtype),
    )


def _device() -> torch.device:
    """The GPU of this worker; Ray hides none from one that has a share of none."""
    device = choose_device()
    unshared = device.type == "cuda" and is_initialized() and not get_gpu_ids()
    return torch.device("cpu") if unshared else device


def training_of(pack: Pack, benchmark: Benchmark) -> Training:
    """The training that a pack asks for."""
    cell = pack.cells[0]
    setting = setting_of(cell.place, benchmark, "train" if cell.split == "validation" else "full")
    measurement = Measurement(
        cell.split, cell.place.evaluation_group, cell.path_points, cell.keep_minima
    )
    hyperparameters = [each.hyperparameters for each in pack.cells]
    seeds = [each.seed for each in pack.cells]
    return Training(setting, cell.method, hyperparameters, seeds, measurement)


def outcomes(pack: Pack, training: Training) -> dict[str, Outcome]:
    """What the search needs to know, by cell id."""
    chance = chance_accuracy(training.setting.benchmark)
    return {
        cell.id: outcome(record.status, training.curve(record), chance)
        for cell, record in zip(pack.cells, training.records, strict=True)
    }


def pack_rows(pack: Pack, training: Training, started_at: datetime) -> dict[str, list[Any]]:
    """The rows of every table for a pack that has ended."""
    tables: dict[str, list[Any]] = {"runs": [], "accuracies": [], "paths": [], "barriers": []}
    times = {"started_at": started_at, "finished_at": datetime.now(UTC)}
    of_cells = [(block, cell) for block in pack.blocks for cell in block.cells]
    for (block, cell), record in zip(of_cells, training.records, strict=True):
        own = {"cell_id": cell.id, "seed": cell.seed}
        ends = {"from_cell_id": cell.id, "to_cell_id": cell.id}
        tables["runs"].append(own | times | _run(block, cell, training, record))
        tables["accuracies"] += [own | row for row in record.accuracies]
        tables["paths"] += [own | ends | row for row in record.paths]
        tables["barriers"] += [own | ends | row for row in record.barriers]
    return tables


def _run(block: Block, cell: Cell, training: Training, record: Record) -> dict[str, Any]:
    summary = training.summary(record)
    return {
        "purpose": cell.purpose,
        "status": record.status,
        "tasks_completed": record.tasks_completed,
        "study": block.study,
        "trial": block.trial,
        "night": cell.night,
        "method": cell.method,
        **asdict(cell.place),
        **_columns(cell.hyperparameters),
        "own_minimum": training.learner.minimum,
        "split": cell.split,
        "path_points": cell.path_points,
        "keep_minima": list(cell.keep_minima) or None,
        "protocol": PROTOCOL,
        "config": cell.config,
        **(asdict(summary) if summary else {}),
        "gradient_evaluations": record.gradient_evaluations,
        "examples_seen": record.examples_seen,
        "wall_seconds": training.seconds,
        "replicas": len(training.records),
        "device": device_name(training.setting.device),
        "host": socket.gethostname(),
        "version": version(),
        "git_commit": git_commit(),
    }


def _columns(values: SGD) -> dict[str, Any]:
    """Hyperparameters by column; those without one, of somebody's own method, together."""
    columns = TABLES["runs"].schema.names
    known = asdict(values)
    own = {name: known.pop(name) for name in known.keys() - set(columns)}
    return known | {"own_hyperparameters": json.dumps(own, sort_keys=True) if own else None}


def device_name(device: torch.device) -> str:
    """As the table `runs` has it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def stored_outcomes(store: Store, sweep: str, chances: Mapping[str, float]) -> dict[str, Outcome]:
    """The outcomes of a sweep's committed cells, to the bit as their workers told them.

    Args:
        store: the results root.
        sweep: its name.
        chances: accuracy of guessing, by benchmark; cells on others are left out.

    Raises:
        UnavailableError: the root cannot be read.
    """
    import duckdb

    with store.database(sweep) as database:
        sql = "SELECT cell_id, status, own_minimum, benchmark FROM runs"
        try:
            cells = database.execute(sql).fetchall()
            rows = database.execute(
                """
                SELECT cell_id, minimum, list((after_task, accuracy) ORDER BY after_task, eval_task)
                FROM accuracies GROUP BY ALL
                """
            ).fetchall()
        except duckdb.InvalidInputException as problem:  # what it makes of ours, when it reads on
            raise UnavailableError(one_line(problem)) from None
    pairs = {(cell, minimum): found for cell, minimum, found in rows}
    return {
        cell: outcome(status, accuracy_curve(pairs.get((cell, own), ())), chances[where])
        for cell, status, own, where in cells
        if where in chances
    }
