"""A study is a function of its spec: whatever order, interleaving and kills make of its blocks."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import (
    CHANCE,
    PLACE,
    SPACES,
    TASKS,
    Choose,
    Result,
    curve,
    end,
    propose,
    protocol,
    prune_below,
    simulate,
    study,
)

from lmc_ray.errors import UserError
from lmc_ray.sweep import Range, Study
from lmc_ray.sweep.cells import Block, Outcome
from lmc_ray.sweep.declared import check_studies
from lmc_ray.sweep.study import SEARCH_SEEDS_FROM, Protocol, StudyRun, titles


def wild(seed: int, kills: int) -> Choose:
    """A scheduler that does anything, and kills the driver now and then."""
    chance = random.Random(seed)
    left = kills

    def choose(actions: Sequence[str]) -> str:
        nonlocal left
        usual = [action for action in actions if action != "kill"]
        if left and chance.random() < 0.05:
            left -= 1
            return "kill"
        return chance.choice(usual)

    return choose


CASES: dict[str, tuple[Study, Protocol]] = {
    "search": (study(), protocol()),
    "pareto": (study("mcsgd"), protocol(pareto=True)),
    "multitask": (study("multitask"), protocol()),
    "no rerank": (study(), protocol(rerank=0, search_seeds=1)),
    "few values": (study(space={"batch_size": [16, 32], "epochs": [1, 2]}), protocol(trials=30)),
    "nothing to search": (study("naive-sgd"), protocol()),
    "firsts": (study(first=[{"learning_rate": 0.1}, {}, {"dropout": 0.2}]), protocol(trials=12)),
    "whole generations": (study(), protocol(trials=13, generation=1)),
    "one generation": (study(), protocol(trials=13, generation=20)),
    "no paths": (study("mcsgd", paths=False), protocol()),
}
QUIET: dict[str, Result] = {}


def quiet(name: str) -> Result:
    """The case on a quiet day; reckoned once."""
    if name not in QUIET:
        QUIET[name] = simulate(lambda: StudyRun(*CASES[name], 2))
    return QUIET[name]


@pytest.mark.parametrize("case", CASES)
@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 12),
    kills=st.integers(0, 6),
)
def test_a_sweep_is_a_function_of_its_spec(case: str, seed: int, workers: int, kills: int) -> None:
    found = simulate(lambda: StudyRun(*CASES[case], 2), wild(seed, kills), workers)
    assert found.decisions == quiet(case).decisions


@pytest.mark.parametrize("case", CASES)
def test_the_size_of_confirmation_stacks_changes_no_cell(case: str) -> None:
    for stack in (1, 3, 100):
        found = simulate(lambda stack=stack: StudyRun(*CASES[case], stack), workers=3)
        assert found.decisions == quiet(case).decisions
        confirmed = [block for block in found.ran if block.trial is None]
        assert max(len(block.cells) for block in confirmed) == min(stack, 3)


def test_every_kind_of_end_was_simulated() -> None:
    states = Counter(trial.state for case in CASES for trial in quiet(case).trials if trial)
    assert {"complete", "pruned", "diverged"} <= set(states)


def test_more_trials_begin_with_the_same_ones() -> None:
    few = quiet("search")
    many = simulate(lambda: StudyRun(study(), protocol(trials=24), 2), workers=3)
    assert many.trials[:16] == few.trials
    assert many.limits[:16] == few.limits


def test_another_sweep_seed_makes_another_search() -> None:
    found = simulate(lambda: StudyRun(study(), protocol(sweep_seed=1), 2))
    assert found.params[0] != quiet("search").params[0]


def test_a_proposal_sees_whole_generations_at_least_two_back() -> None:
    found = quiet("search")
    space = StudyRun(study(), protocol(), 2).space
    for number, (params, limits) in enumerate(zip(found.params, found.limits, strict=True)):
        seen = max(0, number // 5 - 1) * 5
        history = [trial for trial in found.trials[:seen] if trial]
        assert params == propose(space, history, number, 0, ["maximize"])
        assert limits == prune_below(history, TASKS)


def test_no_worker_waits_for_a_straggler_of_its_own_or_the_last_generation() -> None:
    run = StudyRun(study(), protocol(), 2)
    blocks = [run.next() for _ in range(10)]
    assert all(blocks)
    assert run.next() is None  # number 10 needs all of 0..4
    for block in blocks[1:]:
        assert block
        run.tell(block, end(block))
        assert run.next() is None
    assert blocks[0]
    run.tell(blocks[0], end(blocks[0]))
    assert [bool(run.next()) for _ in range(7)] == [True] * 6 + [False]  # 10..15, and no more


@given(told=st.sets(st.integers(0, 9)))
@settings(deadline=None, max_examples=20)
def test_outcomes_of_the_last_generation_change_no_proposal(told: set[int]) -> None:
    """Generation 2 sees generation 0, whatever is known of generation 1."""
    run = StudyRun(study(), protocol(), 2)
    blocks = [run.next() for _ in range(10)]
    for number in sorted(told | set(range(5))):
        block = blocks[number]
        assert block
        run.tell(block, end(block))
    assert run.next()
    assert run.proposals[10].params == quiet("search").params[10]


def seeds(blocks: Sequence[Block]) -> set[int]:
    return {cell.seed for block in blocks for cell in block.cells}


def stages(found: Result) -> tuple[list[Block], list[Block], list[Block]]:
    """The blocks of the search, of the second ranking and of the confirmation."""
    search = [block for block in found.ran if block.cells[0].seed == SEARCH_SEEDS_FROM]
    confirmed = [block for block in found.ran if block.trial is None]
    second = [block for block in found.ran if block not in search and block not in confirmed]
    return search, second, confirmed


@pytest.mark.parametrize("case", CASES)
def test_seeds_of_search_and_confirmation_never_meet(case: str) -> None:
    found = quiet(case)
    searched = [block for block in found.ran if block.trial is not None]
    confirmed = [block for block in found.ran if block.trial is None]
    assert seeds(confirmed) == {0, 1, 2}
    assert not seeds(searched) & seeds(confirmed)
    assert all(seed >= SEARCH_SEEDS_FROM for seed in seeds(searched))
    assert {cell.purpose for block in searched for cell in block.cells} <= {"search"}
    assert {cell.purpose for block in confirmed for cell in block.cells} == {"confirm"}
    assert {cell.split for block in confirmed for cell in block.cells} == {"test"}


def test_a_search_only_confirms_nothing() -> None:
    one = protocol(rerank=0, seeds=0)
    found = simulate(lambda: StudyRun(study(), one, 2))
    assert len(found.trials) == one.trials
    assert all(block.trial is not None for block in found.ran)


def test_the_search_never_sees_test_data() -> None:
    found = quiet("search")
    searched = [cell for block in found.ran if block.trial is not None for cell in block.cells]
    assert {cell.split for cell in searched} == {"validation"}
    assert {cell.path_points for cell in searched} == {0}


@pytest.mark.parametrize("case", ["search", "pareto", "multitask", "no paths", "nothing to search"])
def test_confirmation_has_one_cell_a_seed_and_paths_where_the_method_has_any(case: str) -> None:
    found = quiet(case)
    confirmed = [cell for b in found.ran if b.trial is None for cell in b.cells]
    assert Counter(cell.seed for cell in confirmed) == dict.fromkeys(range(3), len(found.chosen))
    points = 0 if case in ("multitask", "no paths") else 21
    assert {cell.path_points for cell in confirmed} == {points}
    assert len({cell.id for cell in confirmed}) == len(confirmed)


def test_the_best_five_are_ranked_again_on_further_seeds() -> None:
    found = quiet("search")
    trials = [trial for trial in found.trials if trial]
    search, second, _ = stages(found)
    complete = [trial for trial in trials if trial.state == "complete"]
    best = sorted(complete, key=lambda trial: -trial.values[0])[:5]
    assert {block.trial for block in second} == {trial.number for trial in best}
    assert seeds(search) == {10_000, 10_001}
    assert seeds(second) == {10_002, 10_003, 10_004}
    assert all(not block.prune_below for block in second)
    by_number = {
        trial.number: [curve(cell)[-1] for b in search + second if b.trial == trial.number
                       for cell in b.cells]
        for trial in best
    }  # fmt: skip
    assert {len(values) for values in by_number.values()} == {5}
    winner = max(best, key=lambda trial: fmean(by_number[trial.number]))
    assert found.chosen == [winner.params]


def test_ranking_again_can_turn_the_first_ranking_over() -> None:
    """It does so somewhere, or it would not be worth its cells."""
    for seed in range(30):
        found = simulate(lambda seed=seed: StudyRun(study(), protocol(sweep_seed=seed), 2))
        complete = [t for t in found.trials if t and t.state == "complete"]
        if found.chosen != [max(complete, key=lambda t: t.values[0]).params]:
            return
    pytest.fail("30 searches and never another winner")


def test_equal_proposals_are_one_trial() -> None:
    found = quiet("few values")
    trials = [trial for trial in found.trials if trial]
    assert len(trials) == 30
    searched = {str(block.cells[0].config) for block in stages(found)[0]}
    assert len(searched) == 4  # of four possible configurations
    by_params: dict[str, set[Any]] = {}
    for trial in trials:
        by_params.setdefault(str(trial.params), set()).add((trial.state, trial.values))
    assert all(len(fates) == 1 for fates in by_params.values())
    ids = [cell.id for block in found.ran for cell in block.cells]
    assert len(ids) == len(set(ids)), "a cell ran twice"


def test_many_equal_proposals() -> None:
    few = study(space={"batch_size": [16, 32]})
    found = simulate(lambda: StudyRun(few, protocol(trials=600, generation=600, rerank=0), 2))
    assert len(found.trials) == 600
    assert all(found.trials)


@pytest.mark.parametrize("purpose", ["search", "rerank", "confirm"])
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 8))
def test_a_failed_block_stops_nothing(purpose: str, seed: int, workers: int) -> None:
    def fails(block: Block) -> bool:
        first = block.cells[0].seed
        return {
            "search": block.trial == 3 and first == 10_000,
            "rerank": first == 10_002,
            "confirm": block.trial is None and first == 0,
        }[purpose]

    found = simulate(lambda: StudyRun(study(), protocol(), 2), wild(seed, 0), workers, fails)
    calm = simulate(lambda: StudyRun(study(), protocol(), 2), fails=fails)
    assert found.decisions == calm.decisions
    assert all(found.trials)
    states = {t.number: t.state for t in found.trials if t}
    assert (states[3] == "failed") == (purpose == "search")
    assert len(found.chosen) == 1
    assert any(block.trial is None for block in found.ran)


def test_a_search_in_which_everything_failed_confirms_nothing() -> None:
    found = simulate(lambda: StudyRun(study(), protocol(), 2), fails=lambda block: True)
    assert {trial and trial.state for trial in found.trials} == {"failed"}
    assert found.chosen == []
    assert len(found.ran) == 16


def test_diverged_blocks_are_told_at_chance_and_never_confirmed() -> None:
    wide = study(space={"learning_rate": Range(1.3, 2.0)})
    found = simulate(lambda: StudyRun(wide, protocol(), 2))
    for trial in found.trials:
        assert trial
        block = next(block for block in found.ran if block.trial == trial.number)
        ended = [found.ledger[cell.id] for cell in block.cells]
        statuses = {each.status for each in ended}
        assert (trial.state == "diverged") == (statuses == {"diverged"})
        if trial.state == "diverged":
            assert trial.values == (CHANCE,)
        assert trial.values[0] == pytest.approx(fmean(each.value for each in ended))
    chosen = [trial for trial in found.trials if trial and trial.params in found.chosen]
    assert all(trial.state == "complete" for trial in chosen)


def test_joint_training_has_no_curve_and_is_never_pruned() -> None:
    found = quiet("multitask")
    assert {trial and trial.state for trial in found.trials} == {"complete"}
    assert {trial and len(trial.curve) for trial in found.trials} == {1}
    assert set(found.limits) == {()}


def test_joint_training_is_not_pruned_by_growing_either() -> None:
    """It has no accuracy before its end: a worker would take that for chance."""
    schedules = {"multitask_schedule": ["joint", "growing"]}
    both = study("multitask", space=SPACES["multitask"] | schedules)
    found = simulate(lambda: StudyRun(both, protocol(trials=40), 2))
    trials = [trial for trial in found.trials if trial]
    growing, joint = (
        [trial for trial in trials if trial.params["multitask_schedule"] == name]
        for name in ("growing", "joint")
    )
    assert "pruned" in {trial.state for trial in growing}
    assert {trial.state for trial in joint if len(trial.curve) == 1} == {"complete"}
    assert {found.limits[trial.number] for trial in joint} == {()}
    assert len(joint) > 5


@pytest.mark.parametrize("lost", range(5))
def test_a_finalist_whose_ranking_failed_is_not_chosen(lost: int) -> None:
    """Its search seeds made it one: on these alone it would look better than it is."""
    whole = simulate(lambda: StudyRun(study(), protocol(), 2))
    ranked = list(dict.fromkeys(b.trial for b in whole.ran if b.cells[0].seed == 10_002))
    found = simulate(
        lambda: StudyRun(study(), protocol(), 2),
        fails=lambda block: block.trial == ranked[lost] and block.cells[0].seed == 10_002,
    )
    trial = found.trials[ranked[lost]]
    assert trial
    assert found.chosen != [trial.params]
    assert len(found.chosen) == 1


def test_pruning_ends_bad_trials() -> None:
    found = quiet("search")
    pruned = [trial for trial in found.trials if trial and trial.state == "pruned"]
    assert pruned
    for trial in pruned:
        limits = found.limits[trial.number]
        last = len(trial.curve) - 1
        limit = limits[last]
        assert limit is not None
        assert trial.curve[last] < limit
        for value, bound in zip(trial.curve[:last], limits[:last], strict=True):
            assert bound is None or value >= bound
    complete = [trial for trial in found.trials if trial and trial.state == "complete"]
    assert all(
        bound is None or value >= bound
        for trial in complete
        for value, bound in zip(trial.curve, found.limits[trial.number], strict=False)
    )


def test_a_trial_as_good_as_the_median_is_not_pruned() -> None:
    run = StudyRun(*CASES["search"], 2)
    while len(run.proposals) < run.trials:
        block = run.next()
        assert block
        alike = Outcome("finished", 0.5, (0.5,) * TASKS)
        run.tell(block, {cell.id: alike for cell in block.cells})
    assert any(0.5 in proposal.prune_below for proposal in run.proposals)
    assert {proposal.trial.state for proposal in run.proposals if proposal.trial} == {"complete"}


def test_pareto_confirms_the_front() -> None:
    found = quiet("pareto")
    trials = [trial for trial in found.trials if trial]
    assert {len(trial.values) for trial in trials} == {2}
    assert set(found.limits) == {()}
    done = {t.values for t in trials if t.state == "complete"}
    front = [
        (accuracy, memory)
        for accuracy, memory in done
        if not any(a >= accuracy and m <= memory and (a, m) != (accuracy, memory) for a, m in done)
    ]
    chosen = [t.values for t in trials if t.params in found.chosen]
    assert sorted(set(chosen)) == sorted(front)
    assert len(found.chosen) == len(front)
    memories = [params["memory_per_class"] for params in found.chosen]
    assert memories == sorted(memories)


def test_pareto_leaves_methods_without_a_searched_memory_as_they_are() -> None:
    found = simulate(lambda: StudyRun(study(), protocol(pareto=True), 2))
    assert found.decisions == quiet("search").decisions
    fixed = study("mcsgd", space={"learning_rate": Range(0.01, 1.0), "memory_per_class": 1})
    run = StudyRun(fixed, protocol(pareto=True), 2)
    assert not run.pareto


@pytest.mark.parametrize(
    ("changes", "trials"),
    [({"trials": 0}, 0), ({"trials": 1}, 1), ({"trials": 1, "rerank": 0}, 1)],
)
def test_hardly_a_search(changes: dict[str, int], trials: int) -> None:
    only = study(space=SPACES["stable-sgd"] | {"epochs": 3})
    found = simulate(lambda: StudyRun(only, protocol(**changes), 2))
    assert len(found.trials) == trials
    assert len(found.chosen) == 1
    confirmed = [cell for block in found.ran if block.trial is None for cell in block.cells]
    assert {cell.seed for cell in confirmed} == {0, 1, 2}
    assert {cell.hyperparameters.epochs for cell in confirmed} == {3}


def test_first_settings_come_first_and_the_rest_is_sampled() -> None:
    found = quiet("firsts")
    assert found.params[0]["learning_rate"] == 0.1
    assert found.params[2]["dropout"] == 0.2
    assert set(found.params[0]) == set(SPACES["stable-sgd"])
    assert found.params[1] == propose(
        StudyRun(study(), protocol(), 2).space, [], 1, 0, ["maximize"]
    )


def test_first_settings_ignore_what_is_no_longer_searched() -> None:
    narrow = study(
        space={"learning_rate": Range(0.01, 1.0), "dropout": 0.3},
        first=[{"learning_rate": 0.1, "dropout": 0.2, "batch_size": 8}],
    )
    found = simulate(lambda: StudyRun(narrow, protocol(), 2))
    assert found.params[0] == {"learning_rate": 0.1}
    assert {block.cells[0].hyperparameters.dropout for block in found.ran} == {0.3}


@pytest.mark.parametrize(
    "space",
    [
        {"learning_rate": Range(0.01, 0.05)},
        {"learning_rate": [0.01, 0.05]},
        {"learning_rate": [0.01, 0.05], "batch_size": [8, 16]},
        {"learning_rate": Range(0.2, 0.5, log=True), "dropout": Range(0.0, 0.5)},
    ],
)
def test_a_first_setting_outside_of_the_range_gives_way(space: dict[str, Any]) -> None:
    """--set learning_rate=0.01:0.05 keeps its word, whatever the script wants to try first."""
    narrow = study(space=space, first=[{"learning_rate": 0.1, "dropout": 0.2, "batch_size": 10}])
    found = simulate(lambda: StudyRun(narrow, protocol(), 2))
    for params in found.params:
        for name, value in params.items():
            wanted = space[name]
            if isinstance(wanted, Range):
                assert wanted.low <= value <= wanted.high
            else:
                assert value in wanted
    if "dropout" in space:
        assert found.params[0]["dropout"] == 0.2


@pytest.mark.parametrize(
    ("own", "sweep", "trials"), [(None, 7, 7), (4, 7, 4), (8, 7, 7), (8, 2, 2), (8, 0, 0)]
)
def test_a_study_may_have_fewer_trials_of_its_own(own: int | None, sweep: int, trials: int) -> None:
    """--trials 0 and --smoke hold for every study; a study's own number is its upper bound."""
    assert StudyRun(study(trials=own), protocol(trials=sweep), 2).trials == trials


def test_total_blocks_is_what_runs() -> None:
    for case in ("search", "pareto", "multitask", "nothing to search", "no rerank", "firsts"):
        run = StudyRun(*CASES[case], 2)
        expected = run.total_blocks
        seen = simulate(lambda run=run: run)
        assert run.total_blocks == len(seen.ran)
        if case != "pareto":
            assert expected == len(seen.ran)
    run = StudyRun(CASES["few values"][0], protocol(trials=30, rerank=0), 2)
    seen = simulate(lambda run=run: run)
    assert run.total_blocks == len(seen.ran), "equal proposals run once"


def test_best_is_the_best_validation_accuracy() -> None:
    run = StudyRun(*CASES["search"], 2)
    assert run.best is None
    simulate(lambda: run)
    complete = [t.values[0] for t in quiet("search").trials if t and t.state == "complete"]
    assert run.best == max(complete)


def test_asynchronous_sees_all_that_is_known() -> None:
    one = protocol(asynchronous=True, trials=14)
    found = simulate(lambda: StudyRun(study(), one, 2))
    space = StudyRun(study(), one, 2).space
    for number in range(14):
        history = [trial for trial in found.trials[:number] if trial]
        assert found.params[number] == propose(space, history, number, 0, ["maximize"])
        assert found.limits[number] == prune_below(history, TASKS)
    run = StudyRun(study(), one, 2)
    assert all(run.next() for _ in range(14)), "nobody waits"


@pytest.mark.parametrize(
    ("changes", "stack", "says"),
    [
        ({"trials": -1}, 2, "--trials must be at least 0, got -1"),
        ({"generation": 0}, 2, "--generation must be at least 1, got 0"),
        ({"seeds": 0, "keep_minima": (1,)}, 2, "--seeds 0 keeps no minima"),
        ({"seeds": -3}, 2, "--seeds must be at least 0, got -3"),
        ({}, 0, "--replicas must be at least 1, got 0"),
    ],
)
def test_bad_numbers(changes: dict[str, int], stack: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        StudyRun(study(), protocol(**changes), stack)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "stable-sdg"}, "unknown method 'stable-sdg': did you mean 'stable-sgd'"),
        ({"method": "stable-sdg", "space": {}}, "unknown method"),
        ({"space": {"learning_rate": Range(1.0, 0.5)}}, "swap its ends"),
        ({"first": [{"learning_rate": -1.0}]}, "learning_rate must be in"),
        ({"first": [{}, {"batch_size": "many"}]}, "batch_size must be a whole number"),
    ],
)
def test_bad_studies(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        StudyRun(replace(study(), **changes), protocol(), 2)


def test_two_studies_of_one_method_are_refused() -> None:
    check_studies([study("mcsgd"), study("stable-sgd")])
    with pytest.raises(UserError, match="two studies of MC-SGD"):
        check_studies([study("mcsgd"), study("stable-sgd"), study("mcsgd")])


def test_studies_of_one_method_need_labels() -> None:
    labelled = [study("mcsgd", label=label) for label in (None, "short", "long")]
    check_studies(labelled)
    assert titles([StudyRun(each, protocol(), 2) for each in labelled]) == [
        "MC-SGD",
        "MC-SGD (short)",
        "MC-SGD (long)",
    ]
    for label, says in (
        ("short", r"two studies of MC-SGD \(short\)"),
        ("er", "'er' is a method's name"),
        ("naive sgd", "use letters, digits"),
        ("EWC", "'EWC' is a method's name"),
        ("-x", "use letters, digits"),
        ("a=b", "use letters, digits"),
        ("", "use letters, digits"),
    ):
        with pytest.raises(UserError, match=says):
            check_studies([*labelled, study("mcsgd", label=label)])
    with pytest.raises(UserError, match="stable-sgd has a preset"):
        check_studies([study(preset="author")])
    with pytest.raises(UserError, match="multitask is a control of shrot: give that a study"):
        check_studies([*labelled, study("multitask", control="shrot")])
    with pytest.raises(UserError, match="other studies of mcsgd, need a sweep of their own"):
        check_studies([*labelled, study("multitask", control="short")])
    check_studies([study("mcsgd"), study(), study("multitask", control="mcsgd")])


def test_cells_carry_the_place_and_all_values() -> None:
    run = StudyRun(study(space=SPACES["stable-sgd"] | {"epochs": 2}), protocol(), 2)
    block = run.next()
    assert block
    for cell in block.cells:
        assert cell.place is PLACE
        assert cell.hyperparameters.epochs == 2
        for name, value in run.proposals[0].params.items():
            assert getattr(cell.hyperparameters, name) == value
    assert [cell.seed for cell in block.cells] == [10_000, 10_001]
    assert block.study == "stable-sgd"
    assert block.trial == 0


def test_a_block_found_whole_elsewhere_is_pruned_as_if_it_had_run() -> None:
    """Cells of another sweep may have run to their end; here the trial would have been pruned."""

    def finished(block: Block) -> dict[str, Outcome]:
        return end(replace(block, prune_below=()))

    run = StudyRun(*CASES["search"], 2)
    while run.stage != "done":
        block = run.next()
        assert block
        run.tell(block, finished(block))
        if run.stage == "search" and len(run.proposals) == 16:
            break
    assert [proposal.trial for proposal in run.proposals] == quiet("search").trials
