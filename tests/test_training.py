"""A stack's training: what is measured when, and what is written down."""

from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pytest
import torch
from reference import Lone, growing_step
from small import benchmark, setting, values

from lmc_ray.connectivity.paths import Curve, barriers, trio_paths
from lmc_ray.learners import METHODS
from lmc_ray.learners.evaluation import evaluate
from lmc_ray.metrics import Summary, summarize
from lmc_ray.training import Measurement, Record, Row, Training, chance_accuracy

Split = Literal["validation", "test"]


def training(
    method: str = "mcsgd",
    *,
    split: Split = "test",
    points: int = 0,
    seeds: tuple[int, ...] = (3, 4),
    tasks: int = 3,
    family: str = "rotated",
    network: str = "mlp-16-8",
    group: int = 20,
    **changes: Any,
) -> Training:
    """A stack of replicas that differ in their seeds only."""
    each = [values(method, **changes)] * len(seeds)
    measurement = Measurement(split, group, points)
    place = setting(family, network, tasks=tasks)
    return Training(place, method, each, seeds, measurement)


def trained(*arguments: Any, **options: Any) -> Training:
    run = training(*arguments, **options)
    while not run.finished:
        run.step()
    return run


def keys(record: Record) -> set[tuple[str, int, int]]:
    rows = [(row["minimum"], row["after_task"], row["eval_task"]) for row in record.accuracies]
    assert len(rows) == len(set(rows)), "a row twice"
    return set(rows)


def triangle(*minima: str, tasks: int = 3, first: int = 1) -> set[tuple[str, int, int]]:
    """Every minimum after every task on every task learned by then."""
    return {
        (minimum, after, task)
        for minimum in minima
        for after in range(first, tasks + 1)
        for task in range(1, after + 1)
    }


def matrix(record: Record, minimum: str, tasks: int = 3) -> np.ndarray:
    found = np.full((tasks, tasks), np.nan)
    for row in record.accuracies:
        if row["minimum"] == minimum:
            found[row["after_task"] - 1, row["eval_task"] - 1] = row["accuracy"]
    return found


# --- accuracies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changes", "points", "minima"),
    [
        ("naive-sgd", {}, 0, ["sequential"]),
        ("stable-sgd", {}, 3, ["sequential"]),
        ("multitask", {"multitask_schedule": "growing"}, 0, ["multitask"]),
        ("mcsgd", {}, 0, ["connected", "inner"]),
        ("mcsgd", {"continue_from": "sequential"}, 0, ["connected", "sequential"]),
        ("mcsgd", {}, 3, ["connected", "inner", "sequential", "multitask"]),
        (
            "mcsgd",
            {"continue_from": "sequential"},
            3,
            ["connected", "sequential", "multitask"],
        ),
    ],
)
def test_which_minima_are_measured(
    method: str, changes: dict[str, Any], points: int, minima: list[str]
) -> None:
    run = trained(method, points=points, **changes)
    for record in run.records:
        assert keys(record) == triangle(*minima)
        assert {row["split"] for row in record.accuracies} == {"test"}
        assert {row["examples"] for row in record.accuracies} == {30}


def test_joint_training_is_measured_at_its_end_alone() -> None:
    run = trained("multitask")
    for record in run.records:
        assert keys(record) == triangle("multitask", first=3)
        assert record.tasks_completed == 3


def test_a_search_measures_the_own_minimum_on_validation_data_alone() -> None:
    run = trained("mcsgd", split="validation")
    for record in run.records:
        assert keys(record) == triangle("connected")
        assert {row["split"] for row in record.accuracies} == {"validation"}
        assert {row["examples"] for row in record.accuracies} == {16}


@pytest.mark.parametrize(
    ("split", "family", "network"),
    [
        ("validation", "rotated", "mlp-16-8"),
        ("test", "rotated", "mlp-16-8"),
        ("test", "split", "resnet18-2"),
    ],
)
def test_rows_are_what_the_minima_are_evaluated_to(split: Split, family: str, network: str) -> None:
    """Also under batch normalisation, where the group decides: 12 splits the images."""
    run = training("mcsgd", split=split, family=family, network=network, group=12)
    place = run.setting
    for after in (1, 2, 3):
        run.step()
        for replica, record in enumerate(run.records):
            for row in record.accuracies:
                if row["after_task"] != after:
                    continue
                theta = run.learner.minima(after)[row["minimum"]][replica : replica + 1]
                examples = place.benchmark.examples(row["eval_task"], split)
                allowed = place.allowed(row["eval_task"])
                accuracy, loss = evaluate(place.network, theta, examples, allowed, 12)
                assert row["accuracy"] == pytest.approx(float(accuracy), abs=1e-12)
                assert row["loss"] == pytest.approx(float(loss), abs=1e-11)


def test_validation_data_is_learned_from_only_in_a_confirmation() -> None:
    """`part` decides: 80 images a task while searching, 96 to confirm."""
    for place, size in ((setting(part="train"), 80), (setting(part="full"), 96)):
        run = Training(place, "naive-sgd", [values("naive-sgd")], [0], Measurement("test", 20))
        run.step()
        assert run.records[0].examples_seen == size


# --- summaries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["naive-sgd", "mcsgd"])
def test_summary_of_the_own_minimum(method: str) -> None:
    run = trained(method, points=3 if method == "mcsgd" else 0)
    for record in run.records:
        own = matrix(record, METHODS[method].learner.minimum)
        found = run.summary(record)
        assert found == summarize(own)
        assert run.accuracy(record) == pytest.approx(np.mean(own[-1]))
        curve = [np.nanmean(row) for row in own]
        assert run.curve(record) == pytest.approx(curve)


@pytest.mark.parametrize("schedule", ["joint", "growing"])
def test_summary_of_multitask_has_an_average_only(schedule: str) -> None:
    run = trained("multitask", multitask_schedule=schedule)
    for record in run.records:
        average = float(np.mean(matrix(record, "multitask")[-1]))
        assert run.summary(record) == Summary(average, None, None, None)
        assert run.accuracy(record) == pytest.approx(average)
        assert len(run.curve(record)) == (1 if schedule == "joint" else run.task)


def test_no_summary_before_the_end() -> None:
    run = training("naive-sgd")
    record = run.records[0]
    assert run.summary(record) is None
    assert run.accuracy(record) == 0.1  # nothing known yet
    run.step()
    assert run.summary(record) is None
    assert run.accuracy(record) == matrix(record, "sequential")[0, 0]
    assert len(run.curve(record)) == 1


def test_a_pruned_replica_keeps_what_it_has() -> None:
    run = training("mcsgd")
    run.step()
    run.step()
    run.prune(range(2))
    assert run.finished
    for record in run.records:
        assert (record.status, record.tasks_completed) == ("pruned", 2)
        assert run.summary(record) is None
        own = matrix(record, "connected")
        assert run.accuracy(record) == pytest.approx(own[1, :2].mean())
        assert record.paths == record.barriers == []


def test_pruning_does_not_revive_or_rename_the_diverged() -> None:
    each = [values("naive-sgd"), values("naive-sgd", learning_rate=1e30)]
    place = setting(dtype=torch.float32)
    run = Training(place, "naive-sgd", each, [0, 1], Measurement("test", 20))
    run.step()
    run.prune(range(2))
    assert [record.status for record in run.records] == ["pruned", "diverged"]
    assert run.accuracy(run.records[1]) == chance_accuracy(place.benchmark) == 0.1
    assert run.summary(run.records[1]) is None


def test_chance() -> None:
    assert chance_accuracy(benchmark("rotated")) == 0.1
    assert chance_accuracy(benchmark("split")) == 0.5


def test_one_task() -> None:
    run = trained("mcsgd", tasks=1, points=5)
    for record in run.records:
        assert record.status == "finished"
        assert record.paths == record.barriers == []
        found = run.summary(record)
        assert found is not None
        assert (found.forgetting, found.backward_transfer) == (None, None)
        assert found.learning_accuracy == found.average_accuracy


@pytest.mark.parametrize("method", METHODS)
def test_learning_works(method: str) -> None:
    """On real digits, with enough steps, every method is far above chance on its last task."""
    run = trained(method, network="mlp-32", epochs=12, batch_size=8, learning_rate=0.05)
    for record in run.records:
        last = [r for r in record.accuracies if r["after_task"] == r["eval_task"] == 3]
        assert max(row["accuracy"] for row in last) > 0.5


# --- counters -----------------------------------------------------------------------------------


def test_counters_follow_the_learner() -> None:
    run = training("naive-sgd", epochs=2)
    for task in (1, 2, 3):
        run.step()
        for record in run.records:
            assert record.tasks_completed == task
            assert record.gradient_evaluations == task * 2 * 5  # batches of 16 out of 80
            assert record.examples_seen == task * 2 * 80
    assert run.seconds > 0


def test_a_trio_costs_what_mcsgd_costs() -> None:
    plain, trio = trained("mcsgd"), trained("mcsgd", points=3)
    counted = [(r.gradient_evaluations, r.examples_seen) for r in plain.records]
    assert [(r.gradient_evaluations, r.examples_seen) for r in trio.records] == counted
    # Three tasks of 5 batches; two connections of 3 steps with 3 points on 2 lines.
    assert counted[0] == (3 * 5 + 2 * 3 * 6, 3 * 80 + 2 * 3 * 6 * 8)


# --- trios and paths ----------------------------------------------------------------------------


@pytest.mark.parametrize("continue_from", ["connected", "sequential"])
def test_a_trio_shares_its_first_minimum(continue_from: str) -> None:
    run = training("mcsgd", points=3, continue_from=continue_from)
    run.step()
    first, *others = run.learner.minima(1).values()
    assert len(others) >= 2
    assert all(torch.equal(first, other) for other in others)
    run.step()
    minima = run.learner.minima(2)
    for a in ("sequential", "connected", "multitask"):
        for b in ("sequential", "connected", "multitask"):
            assert torch.equal(minima[a], minima[b]) == (a == b)


def test_the_multitask_companion_of_a_trio_follows_the_growing_schedule() -> None:
    h: Any = {"epochs": 2, "examples_per_task": 30}
    trio = training("mcsgd", points=3, seeds=(3,), **h)
    lone = Lone(trio.setting, values("mcsgd", **h), 3)
    trio.step()
    minimum = lone.sgd(lone.w0, 1)
    for task in (2, 3):
        trio.step()
        minimum = growing_step(lone, minimum, task)
        found = trio.learner.tensors["multitask"][0]
        torch.testing.assert_close(found, minimum, rtol=0, atol=1e-10)


@pytest.mark.parametrize("start", ["connected", "sequential"])
def test_the_companion_of_a_trio_with_replay_is_plain_sgd(start: str) -> None:
    """ŵ of the paths is never what SGD with a memory came to."""
    trios = (
        training("mcsgd", points=3),
        training("er-mcsgd", points=3, continue_from=start, replay_batch_size=5),
    )
    for trio in trios:
        trio.step()
        trio.step()
    plain, replayed = (trio.learner.minima(2) for trio in trios)
    assert torch.equal(plain["sequential"], replayed["sequential"])
    assert not torch.equal(replayed["inner"], replayed["sequential"])


@pytest.mark.parametrize("tasks", [2, 3])
def test_every_planned_path_is_written_down(tasks: int) -> None:
    run, points = trained("mcsgd", points=21, tasks=tasks), 21
    plan = trio_paths(tasks)
    for record in run.records:
        assert len(record.barriers) == len(plan)
        assert len(record.paths) == len(plan) * points
        for path, heights in zip(plan, record.barriers, strict=True):
            expected = asdict(path) | {"path_id": path.path_id, "split": "test"}
            expected |= {"from_seed": record.seed, "to_seed": record.seed}
            expected |= {"curve": "linear", "control": "same-init"}
            assert {key: heights[key] for key in expected} == expected
            rows = path_rows(record, expected)
            assert [row["alpha"] for row in rows] == pytest.approx(np.linspace(0, 1, points))
            same_task = path.from_task == path.to_task
            assert (heights["instability"] is not None) == same_task


def path_rows(record: Record, like: Row) -> list[Row]:
    wanted = ("path_id", "eval_task")
    return [row for row in record.paths if all(row[key] == like[key] for key in wanted)]


@pytest.mark.parametrize(
    ("method", "family", "network"),
    [
        ("mcsgd", "split", "mlp-16-8"),
        ("stable-sgd", "rotated", "mlp-16-8"),
        ("stable-sgd", "split", "resnet18-2"),  # in groups of 12, as the minima
    ],
)
def test_paths_end_in_the_measured_minima(method: str, family: str, network: str) -> None:
    run = trained(method, points=5, family=family, network=network, group=12)
    for record in run.records:
        table = {(r["minimum"], r["after_task"], r["eval_task"]): r for r in record.accuracies}
        assert record.barriers
        for heights in record.barriers:
            rows = path_rows(record, heights)
            for row, end in ((rows[0], "from"), (rows[-1], "to")):
                minimum, task = heights[f"{end}_minimum"], heights[f"{end}_task"]
                if heights["eval_task"] <= task:
                    measured = table[minimum, task, heights["eval_task"]]
                    assert row["accuracy"] == measured["accuracy"]
                    assert row["loss"] == pytest.approx(measured["loss"], abs=1e-12)


def test_heights_are_those_of_the_rows() -> None:
    run = trained("mcsgd", points=9)
    for record in run.records:
        for heights in record.barriers:
            rows = path_rows(record, heights)
            columns = {
                key: torch.tensor([row[key] for row in rows], dtype=torch.float64)
                for key in ("alpha", "accuracy", "loss")
            }
            curve = Curve(columns["alpha"], columns["accuracy"][None], columns["loss"][None])
            same_task = heights["from_task"] == heights["to_task"]
            expected = asdict(barriers(curve, 0, same_task=same_task))
            assert {key: heights[key] for key in expected} == expected


def test_a_companion_that_has_diverged_is_on_no_path() -> None:
    """Else its error, which is the same everywhere, would rise nowhere."""
    run = training("mcsgd", points=5)
    run.step()
    run.kept["sequential", 1] = torch.full_like(run.kept["sequential", 1], torch.nan)
    run.kept["sequential", 1][1] = 0.1
    while not run.finished:
        run.step()
    lost, whole = run.records
    starts = [(row["from_minimum"], row["from_task"]) for row in lost.barriers]
    assert starts == [("connected", 1), ("connected", 2), ("sequential", 3)]
    assert all(np.isfinite(row["loss"]) for row in lost.paths)
    assert len(whole.barriers) == len(trio_paths(3))


def test_a_companion_that_has_diverged_has_no_accuracy() -> None:
    """Of NaN logits the first is taken for the largest, which is right now and then."""
    run = training("mcsgd", points=3)
    run.step()
    run.learner.tensors["sequential"] = run.learner.tensors["sequential"].clone()
    run.learner.tensors["sequential"][0] = torch.nan
    while not run.finished:
        run.step()
    lost, whole = (
        {row["after_task"] for row in record.accuracies if row["minimum"] == "sequential"}
        for record in run.records
    )
    assert (lost, whole) == ({1}, {1, 2, 3})
    assert [record.status for record in run.records] == ["finished"] * 2


def test_multitask_alone_has_no_paths() -> None:
    run = trained("multitask", points=5, multitask_schedule="growing")
    assert all(record.paths == record.barriers == [] for record in run.records)


def test_rows_belong_to_their_seed() -> None:
    pair, alone = trained("mcsgd", points=3, seeds=(3, 4)), trained("mcsgd", points=3, seeds=(4,))
    assert [record.seed for record in pair.records] == [3, 4]
    for row, other in zip(pair.records[1].paths, alone.records[0].paths, strict=True):
        assert row == pytest.approx(other, abs=1e-10)
    assert pair.records[0].accuracies != pair.records[1].accuracies
