"""The methods, step by step against their references; their switches; their hyperparameters."""

from itertools import islice
from typing import Any

import pytest
import reference
import torch
from reference import Lone
from small import Index, recorded, setting, values
from torch import Tensor

from lmc_ray.errors import UserError
from lmc_ray.learners import METHODS, Setting, hyperparameters
from lmc_ray.learners.agem import project
from lmc_ray.learners.batches import Batch
from lmc_ray.learners.connection_batches import connection_batches
from lmc_ray.learners.fisher import sample
from lmc_ray.learners.hyperparameters import MCSGD, numeric_fields
from lmc_ray.learners.mcsgd import ModeConnectivitySGD
from lmc_ray.learners.presets import preset

SEED = 3
NETWORKS = [("rotated", "mlp-16-8"), ("permuted", "mlp-8"), ("split", "resnet18-2")]


def trajectory(place: Setting, method: str, h: Any) -> tuple[Any, list[Tensor]]:
    """A learner after all tasks, and its parameters at every gradient it asked for."""
    watched, recorder = recorded(place)
    learner = METHODS[method].learner(watched, [h], [SEED])
    for task in range(1, place.benchmark.tasks + 1):
        learner.learn(task)
    return learner, [call.theta[0] for call in recorder.calls]


def same_steps(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=0, atol=1e-10)


# --- step by step -------------------------------------------------------------------------------

SGD_VARIANTS: dict[str, dict[str, Any]] = {
    "naive": {},
    "decay and floor": {"learning_rate": 0.2, "lr_decay": 0.1, "lr_floor": 0.01},
    "floor above": {"learning_rate": 0.01, "lr_floor": 0.05},
    "no momentum": {"momentum": 0.0},
    "dropout": {"dropout": 0.5},
    "epochs": {"epochs": 2},
    "more epochs of task 1": {"epochs": 2, "first_task_epochs": 3},
    "fewer epochs of task 1": {"epochs": 2, "first_task_epochs": 1},
    "in the given order": {"shuffle": False},
    "one batch": {"batch_size": 1_000},
}


@pytest.mark.parametrize("variant", SGD_VARIANTS)
@pytest.mark.parametrize("method", ["naive-sgd", "stable-sgd"])
def test_sequential_sgd(method: str, variant: str) -> None:
    place, h = setting(), values(method, **SGD_VARIANTS[variant])
    learner, ours = trajectory(place, method, h)
    lone = Lone(place, h, SEED)
    minima = reference.sequential(lone)
    same_steps(ours, lone.trace)
    torch.testing.assert_close(learner.tensors["sequential"][0], minima[-1], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("family", "network"), NETWORKS)
@pytest.mark.parametrize("method", ["naive-sgd", "stable-sgd"])
def test_sequential_sgd_on(method: str, family: str, network: str) -> None:
    place, h = setting(family, network), values(method, learning_rate=0.05)
    _, ours = trajectory(place, method, h)
    lone = Lone(place, h, SEED)
    reference.sequential(lone)
    same_steps(ours, lone.trace)


@pytest.mark.parametrize("changes", [{}, {"epochs": 2, "lr_decay": 0.5, "dropout": 0.25}])
@pytest.mark.parametrize(("family", "network"), NETWORKS)
def test_joint_multitask(family: str, network: str, changes: dict[str, Any]) -> None:
    place, h = setting(family, network), values("multitask", learning_rate=0.05, **changes)
    learner, ours = trajectory(place, "multitask", h)
    lone = Lone(place, h, SEED)
    minimum = reference.joint(lone)
    same_steps(ours, lone.trace)
    torch.testing.assert_close(learner.tensors["multitask"][0], minimum, rtol=0, atol=1e-9)
    assert learner.minima(1) == {}  # nothing stands before the end
    assert list(learner.minima(3)) == ["multitask"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"examples_per_task": 30},
        {"examples_per_task": 30, "epochs": 2, "first_task_epochs": 1, "dropout": 0.25},
    ],
)
@pytest.mark.parametrize(("family", "network"), NETWORKS)
def test_growing_multitask(family: str, network: str, changes: dict[str, Any]) -> None:
    h = values("multitask", multitask_schedule="growing", learning_rate=0.05, **changes)
    place = setting(family, network)
    _, ours = trajectory(place, "multitask", h)
    lone = Lone(place, h, SEED)
    reference.growing(lone)
    same_steps(ours, lone.trace)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memory_per_class": 3, "line_samples": 1, "init_position": 0.0},
        {"init_position": 1.0, "connect_momentum": 0.0, "shuffle": False},
        {"connect_examples": 5, "connect_batch_size": 1_000, "dropout": 0.0},
        {"replay_batch_size": 7},
        # A group of very few examples has hardly any variance: rounding would grow there.
        {"replay_batch_size": 7, "connect_batches": "by_task", "memory_per_class": 3},
        {"replay_batch_size": 7, "continue_from": "sequential"},
    ],
)
@pytest.mark.parametrize(("family", "network"), NETWORKS)
def test_mcsgd(family: str, network: str, changes: dict[str, Any]) -> None:
    place, h = setting(family, network), values("mcsgd", learning_rate=0.05, **changes)
    learner, ours = trajectory(place, "mcsgd", h)
    lone = Lone(place, h, SEED)
    solutions = reference.mcsgd(lone)
    tolerance = 1e-7 if network.startswith("resnet") else 1e-10
    visited = torch.stack(ours)
    # Every step on a task's loss and every step on J (a line ends where J's step stands).
    for w in lone.trace + lone.connect_trace:
        assert (visited - w).abs().amax(dim=1).min() < tolerance
    for name, theirs in (("connected", solutions.connected), ("inner", solutions.sgd)):
        torch.testing.assert_close(
            learner.tensors[name][0], theirs[-1], rtol=0, atol=tolerance, msg=name
        )


REPLAYED: dict[str, dict[str, Any]] = {
    "reservoir": {"replay_memory": "reservoir"},
    "ring": {"replay_memory": "ring", "memory_per_class": 2},
    "a small reservoir": {"replay_memory": "reservoir", "replay_batch_size": 9, "epochs": 2},
    "all of it, in the given order": {"replay_batch_size": 1_000, "shuffle": False},
    "dropout": {"dropout": 0.5, "replay_memory": "ring", "replay_batch_size": 7},
    "a task at a time": {"replay_batches": "by_task", "replay_batch_size": 6},
    "a task at a time, ring": {"replay_batches": "by_task", "replay_memory": "ring"},
}
OTHERS: dict[str, tuple[str, Any, dict[str, dict[str, Any]]]] = {
    "er": ("sequential", lambda lone: reference.replaying(lone, reference.beside), REPLAYED),
    "agem": ("sequential", lambda lone: reference.replaying(lone, reference.projected), REPLAYED),
    "ewc": (
        "sequential",
        reference.ewc,
        {
            "per task": {"fisher_examples": 24},
            "weak": {"fisher_examples": 20, "ewc_strength": 1, "learning_rate": 0.02},
            "empirical": {"fisher_examples": 24, "fisher_labels": "empirical"},
            "online": {"fisher_examples": 24, "ewc_penalty": "online", "ewc_decay": 0.5},
            "dropout": {"fisher_examples": 1_000, "dropout": 0.5},
        },
    ),
    "weight-averaging": ("averaged", reference.between_tasks, {"α": {"average_position": 0.3}}),
    "ema": ("averaged", reference.along_steps, {"β": {"ema_decay": 0.9}}),
}


@pytest.mark.parametrize(("family", "network"), NETWORKS)
@pytest.mark.parametrize(
    ("method", "variant"),
    [(method, variant) for method, (_, _, variants) in OTHERS.items() for variant in variants],
)
def test_the_other_methods(method: str, variant: str, family: str, network: str) -> None:
    """Every step on a task's loss, and the last minimum."""
    minimum, algorithm, variants = OTHERS[method]
    changes = variants[variant]
    if network.startswith("resnet") and "dropout" in changes:
        changes = {name: value for name, value in changes.items() if name != "dropout"}
        changes |= {"fisher_examples": 24} if method == "ewc" else {}
    place, h = setting(family, network), values(method, **{"learning_rate": 0.05} | changes)
    learner, ours = trajectory(place, method, h)
    lone = Lone(place, h, SEED)
    last = algorithm(lone)
    tolerance = 1e-7 if network.startswith("resnet") else 1e-10
    visited = torch.stack(ours)
    for w in lone.trace:
        assert (visited - w).abs().amax(dim=1).min() < tolerance
    torch.testing.assert_close(learner.tensors[minimum][0], last, rtol=0, atol=tolerance)


def test_a_projected_gradient_does_not_harm_the_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    reference_gradient = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    reference_gradient[0] = 0  # a memory that is learned by heart has no say
    gradient = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    before = gradient.clone()
    project(gradient, reference_gradient)
    along = (before * reference_gradient).sum(dim=1)
    assert (along < 0).any()
    assert (along > 0).any()
    assert gradient.isfinite().all()
    after = (gradient * reference_gradient).sum(dim=1)
    torch.testing.assert_close(after, along.clamp(min=0), rtol=0, atol=1e-12)
    assert torch.equal(gradient[along >= 0], before[along >= 0])


@pytest.mark.parametrize("scale", [1e-20, 1e-24, 1e-37])
def test_a_projection_does_not_depend_on_the_references_length(scale: float) -> None:
    """The squares of so small numbers are 0 in float32."""
    generator = torch.Generator().manual_seed(0)
    gradient, direction = torch.randn(2, 50, 6, generator=generator)
    expected = gradient.clone()
    project(expected, direction)
    project(gradient, scale * direction)
    torch.testing.assert_close(gradient, expected)


def test_the_fisher_information_of_sampled_labels_is_the_expected_hessian() -> None:
    """E_y[∂log p ∂log pᵀ] = Diag(p) - ppᵀ for the logits: the mean over draws must come near it."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 5, generator=generator, dtype=torch.float64)
    logits[..., [0, 2]] = -torch.inf  # a masked class is never drawn
    uniform = torch.rand(1, 40_000, generator=generator, dtype=torch.float64)
    drawn = sample(logits.expand(1, 40_000, 5), uniform)[0]
    share = drawn.bincount(minlength=5) / len(drawn)
    torch.testing.assert_close(share.double(), logits[0, 0].softmax(0), rtol=0, atol=0.01)
    ends = sample(logits.expand(1, 2, 5), torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64))
    assert ends.tolist() == [[1, 4]]


def test_mcsgd_lowers_j() -> None:
    """What it is for: with many steps J ends below its value at both ends."""
    place = setting(tasks=2)
    h = values("mcsgd", connect_steps=60, connect_batch_size=1_000, learning_rate=0.2, epochs=8)
    learner = ModeConnectivitySGD(place, [h], [SEED])
    learner.learn(1)
    before = learner.tensors["connected"][0]
    learner.learn(2)
    end, after = learner.tensors["inner"][0], learner.tensors["connected"][0]
    lone = Lone(place, h, SEED)
    old, new = lone.points(lone.remembered(1)), lone.points(reference.current_examples(lone, 2))

    def j(w: Tensor) -> float:
        return float(reference.formula(lone, w, before, end, old, new))

    assert j(after) < min(j(before), j(end), j((before + end) / 2)) - 0.01


# --- the switches -------------------------------------------------------------------------------


class AfterTwoTasks:
    """A learner that has learned tasks 1 and 2, and the batches that task 3 would connect with."""

    def __init__(self, family: str = "rotated", seeds: tuple[int, ...] = (SEED,), **changes: Any):
        self.h = values("mcsgd", **changes)
        self.place, self.seeds = setting(family), list(seeds)
        self.index = Index(self.place)
        self.learner = ModeConnectivitySGD(self.place, [self.h] * len(seeds), seeds)
        self.learner.learn(1)
        self.learner.learn(2)
        if self.h.memory_includes_current:
            self.learner._remember(3)

    def batches(self, steps: int | None = None) -> list[tuple[Batch | None, Batch | None]]:
        every = connection_batches(self.place, self.seeds, 3, self.learner.memory, self.h)
        return list(islice(every, steps))

    def rows(self, batch: Batch, replica: int = 0) -> list[tuple[int, int]]:
        """(task, row) of a replica's examples; labels and masks are checked on the way."""
        pixels = (batch.images[replica] * 255).round().to(torch.uint8)
        found = self.index.of(pixels)
        for i, (task, row) in enumerate(found):
            label = int(self.place.examples(task).labels[row])
            assert int(batch.labels[replica, i]) == label
            classes = self.place.benchmark.task_classes(task)
            if classes is None:
                assert batch.allowed is None
            else:
                assert batch.allowed is not None
                mask = batch.allowed.expand(len(self.seeds), batch.size, -1)[replica, i]
                assert mask.nonzero().flatten().tolist() == classes
        return found

    def memory_rows(self, steps: int | None = None) -> list[list[tuple[int, int]] | None]:
        return [None if m is None else self.rows(m) for m, _ in self.batches(steps)]

    def current_rows(self, steps: int | None = None) -> list[list[tuple[int, int]] | None]:
        return [None if c is None else self.rows(c) for _, c in self.batches(steps)]

    def stored(self, replica: int = 0) -> list[tuple[int, int]]:
        return self.index.of(self.learner.memory.remembered_images[replica])


@pytest.mark.parametrize("schedule", ["joint", "author"])
@pytest.mark.parametrize("steps", [1, 3, 17])
def test_connect_steps(schedule: str, steps: int) -> None:
    state = AfterTwoTasks(connect_steps=steps, connect_schedule=schedule)
    assert len(state.batches()) == steps
    # Memory and current at α = 1/3, 2/3, 1; at α = 0 the formula's gradient is nothing.
    counted = state.learner.gradient_evaluations
    if schedule == "joint":
        assert counted == 5 + 5 + steps * 2 * 3


@pytest.mark.parametrize("schedule", ["joint", "author"])
@pytest.mark.parametrize(
    ("per_class", "examples", "expected"),
    [(1, 80, 10), (1, 12, 3), (3, 24, 8), (3, 72, 9)],  # batches of 8: of 20 or 60, of 12 … 80
)
def test_as_many_steps_as_the_longer_list_has_batches(
    schedule: str, per_class: int, examples: int, expected: int
) -> None:
    state = AfterTwoTasks(
        connect_steps=0,
        connect_schedule=schedule,
        memory_per_class=per_class,
        connect_examples=examples,
    )
    assert len(state.batches()) == expected


def test_joint_with_task_batches_takes_as_many_steps_as_there_are_batches() -> None:
    """Two remembered tasks are two batches of one task each, however large a batch may be."""
    state = AfterTwoTasks(
        connect_steps=0,
        connect_batches="by_task",
        connect_batch_size=64,
        connect_examples=30,
    )
    assert len(state.batches()) == 2


@pytest.mark.parametrize("family", ["rotated", "split"])
def test_joint_schedule(family: str) -> None:
    """Every step: a batch of the whole memory and one of the current task, neither repeating."""
    state = AfterTwoTasks(family, connect_steps=40, memory_per_class=2)
    stored = set(state.stored())
    size = min(8, len(stored))
    for rows in state.memory_rows():
        assert rows is not None
        assert len(rows) == len(set(rows)) == size
        assert set(rows) <= stored
    for rows in state.current_rows():
        assert rows is not None
        assert len(rows) == len(set(rows)) == 8
        assert {task for task, _ in rows} == {3}
    assert {pair for rows in state.memory_rows() for pair in rows or ()} == stored
    seen = {pair for rows in state.current_rows() for pair in rows or ()}
    assert len(seen) > 70  # 320 draws out of 80


def test_author_schedule() -> None:
    """Batch i of one list with batch i of the other, then the longer list alone."""
    longer_memory = AfterTwoTasks(
        connect_schedule="author", connect_steps=0, memory_per_class=2, connect_examples=20
    )
    sizes = [(m and m.size, c and c.size) for m, c in longer_memory.batches()]
    assert sizes == [(8, 8), (8, 8), (8, 4), (8, None), (8, None)]
    longer_current = AfterTwoTasks(
        connect_schedule="author", connect_steps=0, memory_per_class=1, connect_examples=36
    )
    sizes = [(m and m.size, c and c.size) for m, c in longer_current.batches()]
    assert sizes == [(8, 8), (8, 8), (4, 8), (None, 8), (None, 4)]
    for state in (longer_memory, longer_current):
        every = [pair for rows in state.memory_rows() for pair in rows or ()]
        assert sorted(every) == sorted(state.stored())  # each example once
        every = [pair for rows in state.current_rows() for pair in rows or ()]
        assert len(set(every)) == len(every) == state.h.connect_examples


def test_author_schedule_starts_over_when_more_steps_are_asked_for() -> None:
    h = {"connect_schedule": "author", "memory_per_class": 1, "connect_examples": 36}
    once = AfterTwoTasks(**h, connect_steps=0)
    more = AfterTwoTasks(**h, connect_steps=8)
    assert more.memory_rows() == (once.memory_rows() * 2)[:8]
    assert more.current_rows() == (once.current_rows() * 2)[:8]
    fewer = AfterTwoTasks(**h, connect_steps=2)
    assert fewer.memory_rows() == once.memory_rows()[:2]


def test_mixed_batches_mix_tasks() -> None:
    for schedule in ("joint", "author"):
        state = AfterTwoTasks(connect_steps=20, connect_schedule=schedule)
        assert any(len({task for task, _ in rows or ()}) == 2 for rows in state.memory_rows())


@pytest.mark.parametrize("family", ["rotated", "split"])
def test_batches_by_task(family: str) -> None:
    joint = AfterTwoTasks(family, connect_batches="by_task", connect_steps=30, memory_per_class=3)
    tasks = []
    for rows in joint.memory_rows():
        assert rows is not None
        (task,) = {task for task, _ in rows}
        tasks.append(task)
        assert len(set(rows)) == len(rows) == min(8, joint.learner.memory.size // 2)
    assert 5 <= tasks.count(1) <= 25  # each remembered task in about half of 30 steps
    author = AfterTwoTasks(
        family,
        connect_batches="by_task",
        connect_schedule="author",
        connect_steps=0,
        connect_examples=8,
        memory_per_class=3,
    )
    classes = author.learner.memory.size // 6
    found = [rows for rows in author.memory_rows() if rows is not None]
    assert [{task for task, _ in rows} for rows in found] == [{1}] * 3 + [{2}] * 3
    assert all(len(rows) == classes for rows in found)
    assert sorted(pair for rows in found for pair in rows) == sorted(author.stored())


@pytest.mark.parametrize("schedule", ["joint", "author"])
def test_connect_examples(schedule: str) -> None:
    """J uses a fixed subset of the current task, another for each seed and task."""
    state = AfterTwoTasks(
        seeds=(3, 4), connect_examples=12, connect_steps=40, connect_schedule=schedule
    )
    seen = [
        {pair for _, c in state.batches() if c is not None for pair in state.rows(c, replica)}
        for replica in (0, 1)
    ]
    assert [len(rows) for rows in seen] == [12, 12]
    assert seen[0] != seen[1]
    in_order = AfterTwoTasks(
        connect_examples=12, connect_steps=40, connect_schedule=schedule, shuffle=False
    )
    rows = {pair for each in in_order.current_rows() for pair in each or ()}
    assert rows == {(3, row) for row in range(12)}
    all_of_them = AfterTwoTasks(connect_examples=5_000, connect_steps=200)
    assert len({pair for each in all_of_them.current_rows() for pair in each or ()}) == 80


@pytest.mark.parametrize("size", [1, 5, 1_000])
def test_connect_batch_size(size: int) -> None:
    state = AfterTwoTasks(connect_batch_size=size, connect_steps=2)
    for memory, current in state.batches():
        assert memory is not None
        assert current is not None
        assert (memory.size, current.size) == (min(size, 20), min(size, 80))


def test_memory_draw() -> None:
    balanced = AfterTwoTasks(memory_draw="balanced", memory_per_class=3).learner.memory
    assert balanced.remembered_labels[0].bincount().tolist() == [6] * 10
    state = AfterTwoTasks(memory_draw="random", memory_per_class=3)
    random = state.learner.memory
    assert random.size == balanced.size
    assert random.remembered_labels[0].bincount(minlength=10).tolist() != [6] * 10
    assert random.remembered_tasks.tolist() == [[1] * 30 + [2] * 30]
    assert len(set(state.stored())) < 60  # with replacement


def test_memory_includes_current() -> None:
    """At the connection of task 3, and from the beginning."""
    sees: dict[bool, set[int]] = {}
    for included in (False, True):
        h = values("mcsgd", memory_includes_current=included, connect_steps=12)
        watched, recorder = recorded(setting())
        learner = ModeConnectivitySGD(watched, [h], [SEED])
        for task in (1, 2):
            learner.learn(task)
        assert learner.memory.size == 20
        recorder.calls.clear()
        learner.learn(3)
        index, stored = Index(setting()), learner.memory
        of_task_3 = set(index.of(stored.remembered_images[0, stored.remembered_tasks[0] == 3]))
        assert learner.memory.size == 30
        assert len(of_task_3) == 10
        # After the 5 batches of SGD come, point by point, a memory batch and a current one.
        on_memory = [index.of(call.images[0]) for call in recorder.calls[5::2]]
        sees[included] = {task for rows in on_memory for task, _ in rows}
    assert sees == {False: {1, 2}, True: {1, 2, 3}}


def test_continue_from() -> None:
    """Where SGD on task 3 starts: at w̄_2, or at ŵ_2."""
    for where, inner in (("connected", "inner"), ("sequential", "sequential")):
        watched, recorder = recorded(setting())
        learner = ModeConnectivitySGD(watched, [values("mcsgd", continue_from=where)], [SEED])
        learner.learn(1)
        learner.learn(2)
        connected, sequential = (learner.minima(2)[name].clone() for name in ("connected", inner))
        recorder.calls.clear()
        learner.learn(3)
        start = recorder.calls[0].theta
        assert torch.equal(start, connected) == (where == "connected")
        assert torch.equal(start, sequential) == (where == "sequential")


def test_going_on_from_sequential_leaves_stable_sgd_as_it_is() -> None:
    shared = {"learning_rate": 0.15, "dropout": 0.3, "lr_decay": 0.8}
    mcsgd = ModeConnectivitySGD(
        setting(), [values("mcsgd", continue_from="sequential", **shared)], [SEED]
    )
    stable = METHODS["stable-sgd"].learner(setting(), [values("stable-sgd", **shared)], [SEED])
    for task in (1, 2, 3):
        mcsgd.learn(task)
        stable.learn(task)
        assert torch.equal(mcsgd.tensors["sequential"], stable.tensors["sequential"])


def test_no_dropout_on_the_path_unless_asked_for() -> None:
    for switch in (False, True):
        watched, recorder = recorded(setting(tasks=2))
        h = values("mcsgd", dropout=0.5, path_dropout=switch)
        learner = ModeConnectivitySGD(watched, [h], [SEED])
        learner.learn(1)
        learner.learn(2)
        on_tasks, on_lines = recorder.calls[:10], recorder.calls[10:]
        assert all(call.factors is not None for call in on_tasks)
        assert all((call.factors is not None) == switch for call in on_lines)
        assert len(on_lines) == 3 * 2 * 3
        if switch:  # of their own at every point
            masks = {
                call.factors.numpy().tobytes() for call in on_lines if call.factors is not None
            }
            assert len(masks) == len(on_lines)


def test_nothing_is_carried_into_a_current_line_that_is_not_there() -> None:
    """Author schedule, second step: the memory alone, whose gradients just pile up."""
    h = values(
        "mcsgd",
        path_weight="carried",
        connect_schedule="author",
        connect_steps=2,
        connect_examples=8,
        connect_momentum=0.0,
        connect_learning_rate=1.0,
    )
    watched, recorder = recorded(setting(tasks=2))
    learner = ModeConnectivitySGD(watched, [h], [SEED])
    learner.learn(1)
    learner.learn(2)
    alone = recorder.calls[-4:]
    stood = alone[-1].theta  # α = 1
    piled = torch.zeros_like(stood)
    for k, call in enumerate(alone):
        images = call.images.double() / 255
        piled += (4 - k) * recorder.loss_and_gradient(call.theta, images, call.labels)[1]
    step = stood - learner.tensors["connected"]
    torch.testing.assert_close(step, piled / 4, rtol=0, atol=1e-10)


# --- counters -----------------------------------------------------------------------------------


def test_counters_of_sgd() -> None:
    learner = METHODS["naive-sgd"].learner(setting(), [values("naive-sgd", epochs=2)], [SEED])
    learner.learn(1)
    assert (learner.gradient_evaluations, learner.examples_seen) == (2 * 5, 2 * 80)
    learner.learn(2)
    assert (learner.gradient_evaluations, learner.examples_seen) == (4 * 5, 4 * 80)


@pytest.mark.parametrize(
    ("weight", "points"), [("exact", 3), ("uniform", 4), ("cumulative", 4), ("carried", 4)]
)
def test_counters_of_mcsgd(weight: str, points: int) -> None:
    """Only gradients that were computed count: at α = 0 the exact weight spares them."""
    h = values("mcsgd", path_weight=weight, connect_batch_size=16)
    watched, recorder = recorded(setting(tasks=2))
    learner = ModeConnectivitySGD(watched, [h], [SEED])
    learner.learn(1)
    learner.learn(2)
    assert learner.gradient_evaluations == len(recorder.calls) == 10 + 3 * 2 * points
    assert learner.examples_seen == 160 + 3 * points * (10 + 16)
    assert learner.examples_seen == sum(call.size for call in recorder.calls)


# --- hyperparameters ----------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
BAD: list[tuple[str, str, Any]] = [
    *(("naive-sgd", "learning_rate", bad) for bad in (0, -0.1, NAN, INF, -INF, "0.1", None, True)),
    *(("naive-sgd", "lr_decay", bad) for bad in (0, -1, 1.01, NAN, INF, [0.5])),
    *(("naive-sgd", "lr_floor", bad) for bad in (-1e-9, NAN, INF, "x")),
    *(("naive-sgd", "momentum", bad) for bad in (1, 1.0, -0.1, NAN, INF)),
    *(("stable-sgd", "dropout", bad) for bad in (1, -0.1, 1.5, NAN, INF)),
    *(("naive-sgd", "batch_size", bad) for bad in (0, -1, 10.0, "10", None, True, NAN)),
    *(("naive-sgd", "epochs", bad) for bad in (0, -1, 1.5, None, False)),
    *(("naive-sgd", "first_task_epochs", bad) for bad in (0, -1, 1.5, "two")),
    *(("naive-sgd", "shuffle", bad) for bad in (0, 1, "yes", None)),
    *(("multitask", "multitask_schedule", bad) for bad in ("grow", "", None, 3)),
    *(("multitask", "examples_per_task", bad) for bad in (0, -5, 1.0, None)),
    *(("naive-sgd", "initialisation", bad) for bad in (-1, 0.5, None)),
    *(("mcsgd", "memory_per_class", bad) for bad in (0, -1, 1.5, None)),
    *(("mcsgd", "memory_draw", bad) for bad in ("balance", 0, None, "a\nb")),
    *(("mcsgd", "memory_includes_current", bad) for bad in (0, "false")),
    *(("mcsgd", "connect_learning_rate", bad) for bad in (0, -1, NAN, INF)),
    *(("mcsgd", "connect_momentum", bad) for bad in (1, -0.1, NAN)),
    *(("mcsgd", "connect_steps", bad) for bad in (-1, 0.5, None, "author")),
    *(("mcsgd", "connect_schedule", bad) for bad in ("mixed", None)),
    *(("mcsgd", "connect_batches", bad) for bad in ("by-task", None)),
    *(("mcsgd", "connect_batch_size", bad) for bad in (0, None)),
    *(("mcsgd", "connect_examples", bad) for bad in (0, None, 2.5)),
    *(("mcsgd", "line_samples", bad) for bad in (0, -1, 2.0)),
    *(("mcsgd", "init_position", bad) for bad in (-0.01, 1.01, NAN, INF)),
    *(("mcsgd", "path_weight", bad) for bad in ("exakt", 1)),
    *(("mcsgd", "path_reduction", bad) for bad in ("average", None)),
    *(("mcsgd", "path_sampling", bad) for bad in ("random", None)),
    *(("mcsgd", "path_dropout", bad) for bad in ("on", 1)),
    *(("mcsgd", "continue_from", bad) for bad in ("inner", None)),
    *(("mcsgd", "loss_scale", bad) for bad in ("sum", None)),
    *(("mcsgd", "replay_batch_size", bad) for bad in (-1, 2.5, None)),
    *(("er", "replay_batch_size", bad) for bad in (0, -1, 2.5, None)),
    *(("agem", "replay_batch_size", bad) for bad in (0, -1)),
    *(("er", "memory_per_class", bad) for bad in (0, None)),
    *(("er", "replay_memory", bad) for bad in ("rings", None)),
    *((method, "replay_batches", "by task") for method in ("er", "agem")),
    *(("ewc", "ewc_strength", bad) for bad in (-1, -1e-9, NAN, INF)),
    *(("ewc", "ewc_penalty", bad) for bad in ("per-task", None)),
    *(("ewc", "ewc_decay", bad) for bad in (-0.1, 1.1, NAN)),
    *(("ewc", "fisher_examples", bad) for bad in (0, 1.5, None)),
    *(("ewc", "fisher_labels", bad) for bad in ("true", None)),
    *(("weight-averaging", "average_position", bad) for bad in (-0.1, 1.1, NAN)),
    *(("ema", "ema_decay", bad) for bad in (-0.1, 1, NAN)),
]


@pytest.mark.parametrize(("method", "name", "bad"), BAD)
def test_a_bad_value_is_refused_in_one_line_that_names_it(method: str, name: str, bad: Any) -> None:
    with pytest.raises(UserError) as caught:
        hyperparameters(method, {name: bad})
    line = str(caught.value)
    assert name in line
    assert "\n" not in line


def test_every_hyperparameter_has_bad_values_above() -> None:
    names = {name for kind in METHODS.values() for name in vars(kind.hyperparameters())}
    assert {name for _, name, _ in BAD} == names


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ({"dropout": 1}, "dropout must be in [0, 1), got 1"),
        ({"learning_rate": -0.5}, "learning_rate must be in (0, inf), got -0.5"),
        ({"init_position": 2}, "init_position must be in [0, 1], got 2"),
        ({"connect_steps": 2.5}, "connect_steps must be a whole number, got 2.5"),
        ({"path_weight": "exakt"}, "unknown path_weight 'exakt': did you mean 'exact'?"),
        ({"shuffle": 1}, "shuffle must be true or false, got 1"),
        (
            {"line_sample": 3},
            "unknown hyperparameter of mcsgd 'line_sample': did you mean 'line_samples'?",
        ),
    ],
)
def test_the_line_says_what_to_do(bad: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        hyperparameters("mcsgd", bad)
    assert str(caught.value) == line


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^unknown method 'mcsdg': did you mean 'mcsgd'\?$"):
        hyperparameters("mcsdg", {})
    with pytest.raises(UserError, match=r"did you mean 'momentum'\?$"):
        hyperparameters("naive-sgd", {"momentun": 0.5})
    with pytest.raises(UserError, match="unknown hyperparameter of naive-sgd 'line_samples'"):
        hyperparameters("naive-sgd", {"line_samples": 5})  # another method's
    with pytest.raises(UserError, match="choose one of: agem, "):
        hyperparameters("zzz", {})


def test_good_extremes() -> None:
    h = hyperparameters(
        "mcsgd",
        {"lr_decay": 1, "momentum": 0, "dropout": 0, "init_position": 1, "connect_steps": 0},
    )
    assert isinstance(h, MCSGD)
    assert h.connect_steps == 0
    assert h.first_task_epochs is None


def test_defaults_are_the_formula_and_the_papers_settings() -> None:
    h = hyperparameters("mcsgd", {})
    assert isinstance(h, MCSGD)
    switches = {
        "path_weight": "exact",
        "path_reduction": "mean",
        "continue_from": "connected",
        "connect_schedule": "joint",
        "connect_batches": "mixed",
        "loss_scale": "mean",
        "memory_draw": "balanced",
        "memory_includes_current": False,
        "path_sampling": "grid",
        "path_dropout": False,
        "memory_per_class": 1,
        "momentum": 0.8,
        "connect_momentum": 0.8,
        "lr_floor": 5e-4,
    }
    assert {key: getattr(h, key) for key in switches} == switches
    naive = vars(hyperparameters("naive-sgd", {}))
    assert (naive["learning_rate"], naive["batch_size"], naive["lr_decay"]) == (0.01, 10, 1)
    assert (naive["dropout"], naive["epochs"], naive["momentum"]) == (0, 1, 0.8)
    stable = vars(hyperparameters("stable-sgd", {}))
    assert (stable["learning_rate"], stable["batch_size"], stable["dropout"]) == (0.1, 10, 0.5)


SETTINGS: dict[str, dict[str, Any]] = {
    "naive-sgd": {"learning_rate": 0.01, "batch_size": 10},
    "stable-sgd": {"batch_size": 10, "lr_decay": 0.8, "dropout": 0.5},
    "ewc": {"batch_size": 10, "ewc_strength": 10, "ewc_penalty": "per_task", "ewc_decay": 1},
    "agem": {
        "batch_size": 10,
        "memory_per_class": 1,
        "replay_batch_size": 10,
        "replay_memory": "ring",
        "replay_batches": "mixed",
    },
    "er": {
        "batch_size": 10,
        "memory_per_class": 1,
        "replay_batch_size": 10,
        "replay_memory": "reservoir",
        "replay_batches": "mixed",
    },
    "multitask": {"multitask_schedule": "joint"},
    "mcsgd": {"lr_decay": 0.8, "dropout": 0.2, "memory_per_class": 1, "replay_batch_size": 0},
    # Not in the paper.
    "er-mcsgd": {"lr_decay": 0.8, "dropout": 0.2, "memory_per_class": 1, "replay_batch_size": 10},
    "weight-averaging": {"lr_decay": 0.8, "average_position": 0.5},
    "ema": {"lr_decay": 0.8, "ema_decay": 0.999},
}


@pytest.mark.parametrize("method", METHODS)
def test_the_settings_of_every_method(method: str) -> None:
    """What a sweep that says nothing else trains with: the paper's, where it has the method."""
    usual = {"learning_rate": 0.1, "lr_decay": 1, "dropout": 0, "batch_size": 64}
    usual |= {"momentum": 0.8, "epochs": 1, "first_task_epochs": None}
    expected = usual | SETTINGS[method]
    found = vars(hyperparameters(method, {}))
    assert {name: found[name] for name in expected} == expected


def test_numeric_hyperparameters() -> None:
    sgd = ["learning_rate", "lr_decay", "lr_floor", "momentum", "dropout"]
    own = ["connect_learning_rate", "connect_momentum", "init_position"]
    assert numeric_fields(METHODS["naive-sgd"].hyperparameters) == sgd
    assert numeric_fields(MCSGD) == sgd + own


@pytest.mark.parametrize("changes", [{"batch_size": 8}, {"epochs": 2}, {"shuffle": False}])
def test_replicas_share_what_shapes_their_loops(changes: dict[str, Any]) -> None:
    pair = [values("naive-sgd"), values("naive-sgd", **changes)]
    with pytest.raises(ValueError, match="numeric hyperparameters only"):
        METHODS["naive-sgd"].learner(setting(), pair, [0, 1])
    with pytest.raises(ValueError, match="numeric"):
        METHODS["naive-sgd"].learner(setting(), pair[:1], [0, 1])


def test_presets_are_hyperparameters() -> None:
    for name in ("author", "cl-gym", "sequel-torch", "sequel-jax"):
        assert isinstance(hyperparameters("mcsgd", preset(name, "split")), MCSGD)
