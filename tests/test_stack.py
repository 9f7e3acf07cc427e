"""The laws of the stack: neighbours, departures, interruptions and methods do not change a number.

Every law is checked for every learner, for every preset of MC-SGD, and for trios.
"""

import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from small import Index, recorded, setting, values
from torch import Tensor

from lmc_ray.learners import METHODS
from lmc_ray.learners.hyperparameters import SGD, numeric_fields
from lmc_ray.learners.presets import PRESETS, preset
from lmc_ray.learners.sgd import SequentialSGD
from lmc_ray.training import Measurement, Record, Training

# Name → method, hyperparameters, points on paths (then MC-SGD is a trio).
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "naive": ("naive-sgd", {"learning_rate": 0.05}, 0),
    "stable": ("stable-sgd", {"lr_decay": 0.7}, 5),
    "joint": ("multitask", {"dropout": 0.25, "epochs": 2}, 0),
    "growing": (
        "multitask",
        {"multitask_schedule": "growing", "dropout": 0.25, "examples_per_task": 40},
        0,
    ),
    "mcsgd": ("mcsgd", {}, 0),
    "mcsgd, every other switch": (
        "mcsgd",
        {
            "path_sampling": "uniform",
            "path_dropout": True,
            "connect_batches": "by_task",
            "memory_draw": "random",
            "memory_per_class": 2,
            "loss_scale": "per_example",
            "continue_from": "sequential",
        },
        0,
    ),
    "trio": ("mcsgd", {"examples_per_task": 40}, 5),
    "trio, from sequential": ("mcsgd", {"continue_from": "sequential"}, 5),
    "er": ("er", {"replay_batch_size": 5, "dropout": 0.25}, 5),
    "er, by task": ("er", {"replay_batches": "by_task", "replay_batch_size": 7}, 0),
    "er, ring": ("er", {"replay_memory": "ring", "memory_per_class": 2}, 0),
    "agem": ("agem", {"replay_batch_size": 5, "dropout": 0.25}, 5),
    "ewc": ("ewc", {"fisher_examples": 24, "dropout": 0.25}, 5),
    "ewc, online": ("ewc", {"fisher_examples": 24, "ewc_penalty": "online"}, 0),
    "er-mcsgd": ("er-mcsgd", {"replay_batch_size": 5}, 0),
    "er-mcsgd, trio": ("er-mcsgd", {"replay_batch_size": 5, "examples_per_task": 40}, 5),
    "weight-averaging": ("weight-averaging", {"dropout": 0.25}, 5),
    "ema": ("ema", {"dropout": 0.25, "ema_decay": 0.9}, 5),
    **{
        name: ("mcsgd", preset(name, "rotated") | {"connect_batch_size": 24}, 0) for name in PRESETS
    },
}
SMALL_STEPS = {"connect_learning_rate": 0.01}  # where public code sums instead of averaging


def hyperparameters(case: str, **changes: Any) -> Any:
    method, fixed, _ = CASES[case]
    calm = SMALL_STEPS if fixed.get("path_reduction") == "sum" else {}
    return values(method, **(calm | fixed | changes))


def training(
    case: str,
    seeds: Sequence[int],
    each: Sequence[SGD] | None = None,
    family: str = "rotated",
    network: str = "mlp-16-8",
    **options: Any,
) -> Training:
    """A stack that has not learned anything yet; by default all replicas are configured alike."""
    method, _, points = CASES[case]
    place = setting(family, network, **options)
    each = [hyperparameters(case)] * len(seeds) if each is None else each
    return Training(place, method, each, seeds, Measurement("test", 20, points))


def trained(*arguments: Any, **options: Any) -> Training:
    """The same, after all tasks."""
    run = training(*arguments, **options)
    finish(run)
    return run


def finish(run: Training) -> None:
    while not run.finished:
        run.step()


def state_of(run: Training, replica: int) -> dict[str, Tensor]:
    """Everything that the learner knows of one replica."""
    return {name: tensor[replica] for name, tensor in run.learner.tensors.items()}


def same_state(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        exact = not tensor.is_floating_point()
        torch.testing.assert_close(
            tensor,
            b[name],
            rtol=0,
            atol=0 if exact else tolerance,
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def same_record(a: Record, b: Record, tolerance: float) -> None:
    for key in ("seed", "status", "tasks_completed", "gradient_evaluations", "examples_seen"):
        assert getattr(a, key) == getattr(b, key), key
    for table in ("accuracies", "paths", "barriers"):
        ours, theirs = getattr(a, table), getattr(b, table)
        assert len(ours) == len(theirs), table
        for row, other in zip(ours, theirs, strict=True):
            assert row == pytest.approx(other, abs=tolerance, nan_ok=True), table


# --- neighbours ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_seed_3_alone_is_seed_3_in_a_stack_of_8(case: str) -> None:
    alone, stack = trained(case, [3]), trained(case, list(range(8)))
    assert alone.records[0].status == stack.records[3].status == "finished"
    same_state(state_of(alone, 0), state_of(stack, 3), 1e-11)
    same_record(alone.records[0], stack.records[3], 1e-9)


@pytest.mark.parametrize(
    "case", ["stable", "joint", "mcsgd", "author", "er, ring", "agem", "ewc, online", "ema"]
)
def test_seed_3_of_a_resnet(case: str) -> None:
    options: dict[str, Any] = {"family": "split", "network": "resnet18-2", "tasks": 2}
    alone, stack = trained(case, [3], **options), trained(case, [1, 2, 3], **options)
    same_state(state_of(alone, 0), state_of(stack, 2), 1e-8)
    same_record(alone.records[0], stack.records[2], 1e-8)


@pytest.mark.parametrize("case", ["stable", "trio"])
def test_single_precision_stays_close(case: str) -> None:
    alone = trained(case, [3], dtype=torch.float32)
    stack = trained(case, list(range(8)), dtype=torch.float32)
    same_state(state_of(alone, 0), state_of(stack, 3), 1e-4)
    double = trained(case, [3])
    assert alone.learner.tensors["sequential"].dtype == torch.float32
    torch.testing.assert_close(
        alone.learner.tensors["sequential"].double(),
        double.learner.tensors["sequential"],
        rtol=0,
        atol=1e-3,
    )


@pytest.mark.parametrize("case", CASES)
def test_replicas_may_differ_in_every_numeric_hyperparameter(case: str) -> None:
    kind = METHODS[CASES[case][0]].hyperparameters
    other = {
        "learning_rate": 0.03,
        "lr_decay": 0.5,
        "lr_floor": 0.15,
        "momentum": 0.3,
        "dropout": 0.6,
        "connect_learning_rate": 0.002,
        "connect_momentum": 0.1,
        "init_position": 0.9,
        "ewc_strength": 0.5,
        "ewc_decay": 0.2,
        "average_position": 0.1,
        "ema_decay": 0.7,
    }
    assert set(numeric_fields(kind)) <= set(other)
    usual = hyperparameters(case)
    differing = [hyperparameters(case, **{name: other[name]}) for name in numeric_fields(kind)]
    everything = hyperparameters(case, **{name: other[name] for name in numeric_fields(kind)})
    each = [usual, *differing, everything]
    seeds = [3] * len(each)  # one seed: what differs is the hyperparameter's doing alone
    stack = trained(case, seeds, each)
    minimum = stack.learner.tensors[stack.learner.minimum]
    for replica, h in enumerate(each):
        alone = trained(case, [3], [h])
        same_state(state_of(alone, 0), state_of(stack, replica), 1e-11)
        same_record(alone.records[0], stack.records[replica], 1e-9)
        name = ["", *numeric_fields(kind), "all"][replica]
        single_step = name == "connect_momentum" and usual.connect_steps == 1
        other_penalty = name == "ewc_decay" and usual.ewc_penalty == "per_task"
        if name and not single_step and not other_penalty:  # momentum needs a second step to show
            difference = (minimum[replica] - minimum[0]).abs().max()
            assert difference > 1e-6, f"{name} does nothing"


def test_the_order_of_a_stack_does_not_matter() -> None:
    forward, backward = trained("trio", [5, 1, 3]), trained("trio", [3, 1, 5])
    for replica in range(3):
        same_state(state_of(forward, replica), state_of(backward, 2 - replica), 1e-11)


def test_the_same_seed_twice_is_the_same_twice() -> None:
    run = trained("trio", [4, 4])
    for name, tensor in run.learner.tensors.items():
        assert torch.equal(tensor[0], tensor[1]), name
    assert run.records[0] == run.records[1]


def test_seeds_differ() -> None:
    run = trained("mcsgd", [0, 1, 2])
    for name in ("connected", "inner", "remembered_images"):
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert not torch.equal(run.learner.tensors[name][a], run.learner.tensors[name][b])


# --- departures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_diverged_replica_leaves_and_nobody_notices(case: str) -> None:
    mad = hyperparameters(case, learning_rate=1e30, lr_decay=1.0)
    each = [hyperparameters(case), mad, hyperparameters(case), mad]
    stack = trained(case, [0, 1, 2, 3], each, dtype=torch.float32)
    calm = trained(case, [0, 2], dtype=torch.float32)
    assert [record.status for record in stack.records] == ["finished", "diverged"] * 2
    assert stack.learner.seeds == [0, 2]
    for gone in (stack.records[1], stack.records[3]):
        assert (gone.tasks_completed, gone.accuracies) == (0, [])
        assert gone.gradient_evaluations > 0, "it learned in vain, but it learned"
    for replica in (0, 1):
        same_state(state_of(stack, replica), state_of(calm, replica), 1e-5)
        same_record(stack.records[2 * replica], calm.records[replica], 1e-4)


@pytest.mark.parametrize("case", CASES)
def test_pruned_replicas_leave_and_nobody_notices(case: str) -> None:
    """Others than those that have diverged; whoever is told twice has left once."""
    mad = hyperparameters(case, learning_rate=1e30, lr_decay=1.0)
    each = [mad, *[hyperparameters(case)] * 4]
    stack = training(case, [0, 1, 2, 3, 4], each, dtype=torch.float32)
    calm = trained(case, [2, 4], dtype=torch.float32)
    stack.step()
    stack.prune(())
    assert stack.learner.seeds == [1, 2, 3, 4]
    stack.prune({1})
    stack.step()
    stack.prune({0, 1, 3})
    finish(stack)
    states = ["diverged", "pruned", "finished", "pruned", "finished"]
    assert [record.status for record in stack.records] == states
    assert [record.tasks_completed for record in stack.records] == [0, 1, 3, 2, 3]
    assert stack.learner.seeds == [2, 4]
    for replica, place in ((0, 2), (1, 4)):
        same_state(state_of(stack, replica), state_of(calm, replica), 1e-5)
        same_record(stack.records[place], calm.records[replica], 1e-4)
    assert all(len(theta) == 2 for theta in stack.kept.values())


def test_interrupted_after_pruning() -> None:
    whole = training("trio", [0, 1, 2])
    whole.step()
    whole.prune({1})
    resumed = moved(whole, training("trio", [0, 1, 2]))
    finish(whole)
    finish(resumed)
    assert resumed.records == whole.records
    assert torch.equal(resumed.learner.tensors["connected"], whole.learner.tensors["connected"])


def test_divergence_in_the_connection() -> None:
    """The SGD of task 2 is sound; the step on J is not. Task 1 stays on the books."""
    each = [hyperparameters("trio"), hyperparameters("trio", connect_learning_rate=1e38)]
    stack = trained("trio", [0, 1], each, dtype=torch.float32)
    calm = trained("trio", [0], dtype=torch.float32)
    gone = stack.records[1]
    assert (gone.status, gone.tasks_completed) == ("diverged", 1)
    assert gone.examples_seen > calm.records[0].examples_seen / 2, "two tasks of three"
    assert {row["after_task"] for row in gone.accuracies} == {1}
    assert gone.paths == []
    same_record(stack.records[0], calm.records[0], 1e-4)
    assert all(len(theta) == 1 for theta in stack.kept.values())


def test_a_stack_of_diverged_replicas_is_finished() -> None:
    mad = hyperparameters("mcsgd", learning_rate=1e30)
    run = trained("mcsgd", [0, 1], [mad, mad], dtype=torch.float32)
    assert [record.status for record in run.records] == ["diverged"] * 2
    assert run.task == 1
    assert run.accuracy(run.records[0]) == 0.1


@pytest.mark.parametrize("case", CASES)
def test_whoever_is_kept_goes_on_unchanged(case: str) -> None:
    run, calm = training(case, [0, 1, 2, 3]), trained(case, [1, 3])
    run.learner.learn(1)
    run.learner.keep([1, 3])
    assert run.learner.seeds == [1, 3]
    for task in (2, 3):
        run.learner.learn(task)
    for replica in (0, 1):
        same_state(state_of(run, replica), state_of(calm, replica), 1e-11)


# --- interruptions ------------------------------------------------------------------------------


def moved(run: Training, into: Training) -> Training:
    """What a checkpoint does: the state written to a file and read by a new process."""
    file = io.BytesIO()
    torch.save(run.state(), file)
    file.seek(0)
    into.restore(torch.load(file))
    return into


@pytest.mark.parametrize("case", CASES)
def test_interrupted_after_any_task_equals_uninterrupted(case: str) -> None:
    whole = trained(case, [3, 4])
    for interruption in (0, 1, 2):
        run = training(case, [3, 4])
        for _ in range(interruption):
            run.step()
        resumed = moved(run, training(case, [3, 4]))
        assert resumed.task == interruption
        finish(resumed)
        assert resumed.records == whole.records
        for name, tensor in whole.learner.tensors.items():
            assert torch.equal(resumed.learner.tensors[name], tensor), name
        for key, theta in whole.kept.items():
            assert torch.equal(resumed.kept[key], theta), key


def test_interrupted_after_every_task() -> None:
    whole, run = trained("trio", [3]), training("trio", [3])
    while not run.finished:
        run.step()
        run = moved(run, training("trio", [3]))
    assert run.records == whole.records
    assert torch.equal(run.learner.tensors["connected"], whole.learner.tensors["connected"])


def test_a_state_is_not_changed_by_going_on() -> None:
    """A checkpoint that is still in memory while the stack trains on."""
    run = training("trio", [3, 4])
    run.step()
    state = run.state()
    copy = io.BytesIO()
    torch.save(state, copy)
    copy.seek(0)
    finish(run)
    then = torch.load(copy)
    assert state["records"] == then["records"]
    assert state["task"] == then["task"] == 1
    for name, tensor in then["learner"]["tensors"].items():
        assert torch.equal(state["learner"]["tensors"][name], tensor), name


def test_interrupted_after_a_divergence() -> None:
    each = [hyperparameters("trio"), hyperparameters("trio", connect_learning_rate=1e38)] * 2
    seeds = [0, 1, 2, 3]
    whole = trained("trio", seeds, each, dtype=torch.float32)
    for interruption in (1, 2):
        run = training("trio", seeds, each, dtype=torch.float32)
        for _ in range(interruption):
            run.step()
        resumed = moved(run, training("trio", seeds, each, dtype=torch.float32))
        finish(resumed)
        assert resumed.records == whole.records
        assert torch.equal(resumed.learner.tensors["connected"], whole.learner.tensors["connected"])


def test_an_interruption_leaves_no_trace_in_the_next_run() -> None:
    """One object, used for one stack after the other, as actors that are reused do."""
    first, fresh = training("trio", [3, 4]), training("trio", [7, 8])
    start = fresh.state()
    finish(first)
    other = moved(fresh, first)
    assert start["task"] == other.task == 0
    finish(other)
    assert other.records == trained("trio", [7, 8]).records


# --- methods ------------------------------------------------------------------------------------


def test_the_same_seed_starts_every_method_from_the_same_point() -> None:
    starts = [training(case, [3, 4]).learner for case in CASES]
    w0 = setting().initial([3, 4])
    for learner in starts:
        assert torch.equal(learner.tensors[learner.minimum], w0)


def test_the_same_seed_shows_every_method_the_same_examples() -> None:
    """SGD on each task sees the same batches in the same order, whatever else a method does."""
    seen = {}
    index = Index(setting())
    for case in ("naive", "stable", "mcsgd", "trio", "cl-gym", "sequel-torch", "sequel-jax"):
        watched, recorder = recorded(setting())
        method, _, points = CASES[case]
        h = hyperparameters(case, learning_rate=0.05, dropout=0.5)
        run = Training(watched, method, [h], [3], Measurement("test", 20, points))
        batches = []
        for _ in range(3):
            recorder.calls.clear()
            run.step()
            batches += [index.of(call.images[0]) for call in recorder.calls[:5]]
        seen[case] = batches
    assert all(batches == seen["naive"] for batches in seen.values())
    assert len({pair for batch in seen["naive"] for pair in batch}) == 3 * 80


@pytest.mark.parametrize("case", ["mcsgd", "trio", *PRESETS])
def test_every_method_shares_its_first_solution_with_stable_sgd(case: str) -> None:
    run = training(case, [3, 4])
    run.step()
    h = hyperparameters(case)
    shared = {name: getattr(h, name) for name in SGD.__dataclass_fields__}
    stable = SequentialSGD(setting(), [SGD(**shared)] * 2, [3, 4])
    stable.learn(1)
    for minimum in run.learner.minima(1).values():
        assert torch.equal(minimum, stable.tensors["sequential"])


# --- trios --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["mcsgd", "mcsgd, every other switch", *PRESETS])
def test_a_trio_does_not_change_mcsgd(case: str) -> None:
    place, h = setting(), hyperparameters(case)
    plain = Training(place, "mcsgd", [h] * 2, [3, 4], Measurement("test", 20))
    trio = Training(place, "mcsgd", [h] * 2, [3, 4], Measurement("test", 20, path_points=3))
    finish(plain)
    finish(trio)
    for name, tensor in plain.learner.tensors.items():
        assert torch.equal(trio.learner.tensors[name], tensor), name
    for ours, theirs in zip(trio.records, plain.records, strict=True):
        assert ours.gradient_evaluations == theirs.gradient_evaluations
        assert ours.examples_seen == theirs.examples_seen
        names = {row["minimum"] for row in theirs.accuracies}
        rows = [row for row in ours.accuracies if row["minimum"] in names]
        assert len(rows) == len(theirs.accuracies)
        for row, other in zip(rows, theirs.accuracies, strict=True):
            assert row == pytest.approx(other, abs=1e-12)


@pytest.mark.parametrize("case", ["trio", "trio, from sequential", "author"])
def test_a_trios_sequential_minimum_is_stable_sgd(case: str) -> None:
    h = hyperparameters(case)
    shared = {name: getattr(h, name) for name in SGD.__dataclass_fields__}
    run = Training(setting(), "mcsgd", [h] * 2, [3, 4], Measurement("test", 20, 2))
    stable = SequentialSGD(setting(), [SGD(**shared)] * 2, [3, 4])
    for task in (1, 2, 3):
        run.step()
        stable.learn(task)
        assert torch.equal(run.learner.minima(task)["sequential"], stable.tensors["sequential"])
