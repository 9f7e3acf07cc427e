"""Independent references: one replica, plain torch.nn modules, autograd and torch.optim.SGD.

The algorithms are written from PAPER.md. What they share with lmc_ray is its protocol: the names of
the streams that say which examples are drawn and which units are dropped, and the order of the
parameters in the flat vector.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import cycle, islice, pairwise
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from lmc_ray.learners import Setting
from lmc_ray.randomness import Dropout, stream


class PlainMLP(nn.Module):
    """Linear, ReLU, dropout by given factors; the last layer gives logits."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, images: Tensor, factors: Tensor | None = None) -> Tensor:
        x, used = images.flatten(1), 0
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x).relu()
            if factors is not None:
                x = x * factors[:, used : used + x.shape[1]]
                used += x.shape[1]
        return last(x)


class PlainBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, before: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, wide, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide, track_running_stats=False)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide, track_running_stats=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != wide:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, wide, 1, stride, bias=False),
                nn.BatchNorm2d(wide, affine=False, track_running_stats=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


class PlainStableBlock(nn.Module):
    def __init__(self, before: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, wide, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide, track_running_stats=False)
        self.bn2 = nn.BatchNorm2d(wide, track_running_stats=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != wide:
            self.shortcut = nn.Sequential(nn.Conv2d(before, wide, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2((self.bn1(self.conv(x).relu()) + self.shortcut(x)).relu())


class PlainResNet(nn.Module):
    """A residual network of eight blocks for small images, with a first width of its own."""

    def __init__(
        self, channels: int, width: int, classes: int, block: Callable[[int, int, int], nn.Module]
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width, track_running_stats=False)
        self.blocks = nn.Sequential(
            block(width, width, 1),
            block(width, width, 1),
            block(width, 2 * width, 2),
            block(2 * width, 2 * width, 1),
            block(2 * width, 4 * width, 2),
            block(4 * width, 4 * width, 1),
            block(4 * width, 8 * width, 2),
            block(8 * width, 8 * width, 1),
        )
        self.head = nn.Linear(8 * width, classes)

    def forward(self, images: Tensor, factors: Tensor | None = None) -> Tensor:
        assert factors is None
        x = self.blocks(self.bn(self.conv(images)).relu())
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def plain(name: str, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The module that a network's name stands for, in double precision."""
    kind, *widths = name.removeprefix("stable-").split("-")
    channels, height, width = image_shape
    if kind == "mlp":
        module = PlainMLP(channels * height * width, *map(int, widths), classes)
    else:
        block = PlainStableBlock if name.startswith("stable") else PlainBlock
        module = PlainResNet(channels, int(widths[0]), classes, block)
    return module.double()


class Pair(NamedTuple):
    """A training example: 1-based task and row."""

    task: int
    row: int


class Points(NamedTuple):
    """A mini-batch of one replica."""

    images: Tensor
    labels: Tensor
    masked: Tensor | None
    """True where a logit does not count."""


Change = Callable[[int, Points], None]
"""(step, batch)."""


@dataclass
class Lone:
    """One replica on its own."""

    setting: Setting
    h: Any
    """Its hyperparameters."""
    seed: int
    trace: list[Tensor] = field(default_factory=list)
    """Parameters before every step on a task's loss."""
    connect_trace: list[Tensor] = field(default_factory=list)
    """Parameters before every step on J."""
    after: list[Tensor] = field(default_factory=list)
    """Parameters after every step on a task's loss."""

    def __post_init__(self) -> None:
        few = self.setting.benchmark
        self.tasks = few.tasks
        self.module = plain(self.setting.network.name, few.image_shape, few.classes)
        self.data = {
            task: few.examples(task, self.setting.part) for task in range(1, few.tasks + 1)
        }
        self.w0 = self.setting.network.initial(stream(self.seed, "initial"))

    # --- examples -------------------------------------------------------------------------------

    def points(self, chosen: Iterable[Pair]) -> Points:
        """Pixels in [0, 1], labels, and which logits each example's task masks."""
        pairs = list(chosen)
        images = torch.stack([self.data[t].images[r] for t, r in pairs]).double() / 255
        labels = torch.stack([self.data[t].labels[r] for t, r in pairs])
        masked = None
        if self.setting.benchmark.task_classes(1) is not None:
            masked = torch.ones(len(pairs), self.setting.benchmark.classes, dtype=torch.bool)
            for i, (t, _) in enumerate(pairs):
                masked[i, self.setting.benchmark.task_classes(t)] = False
        return Points(images, labels, masked)

    def every(self, task: int) -> list[Pair]:
        """All training examples of a task."""
        return [Pair(task, row) for row in range(len(self.data[task].labels))]

    def shuffled(self, items: list[Any], *path: str | int) -> list[Any]:
        """The items in the order that a stream gives."""
        order = torch.randperm(len(items), generator=stream(self.seed, *path))
        return [items[i] for i in order.tolist()]

    def remembered(self, task: int) -> list[Pair]:
        """What the memory keeps of a task."""
        labels = self.data[task].labels.tolist()
        classes = sorted(set(labels))
        number = self.h.memory_per_class * len(classes)
        if self.h.memory_draw == "random":
            rows = torch.randint(
                len(labels), (number,), generator=stream(self.seed, "memory", task)
            )
            return [Pair(task, row) for row in rows.tolist()]
        order = self.shuffled(self.every(task), "memory", task)
        return [
            pair
            for c in classes
            for pair in [p for p in order if labels[p.row] == c][: self.h.memory_per_class]
        ]

    # --- losses ---------------------------------------------------------------------------------

    def units(self) -> int:
        """Hidden units that dropout acts on."""
        return sum(self.setting.network.hidden)

    def factors(self, batch: Points, *path: str | int) -> Tensor | None:
        """Dropout factors of one step."""
        if not self.units():
            return None
        drop = torch.tensor([self.h.dropout], dtype=torch.float64)
        return Dropout([self.seed], drop).factors(path, len(batch.labels), self.units())[0]

    def loss(self, batch: Points, factors: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of the module as it stands."""
        return _cross_entropy(self.module(batch.images, factors), batch)

    def loss_at(self, w: Tensor, batch: Points) -> Tensor:
        """Mean cross-entropy in evaluation mode as a function of a flat vector."""
        named, used = {}, 0
        for name, parameter in self.module.named_parameters():
            named[name] = w[used : used + parameter.numel()].view_as(parameter)
            used += parameter.numel()
        return _cross_entropy(functional_call(self.module, named, (batch.images,)), batch)

    def load(self, w: Tensor) -> None:
        """Put a flat vector into the module."""
        vector_to_parameters(w.clone(), self.module.parameters())

    def flat(self) -> Tensor:
        """The module's parameters as a flat vector."""
        return parameters_to_vector(self.module.parameters()).detach().clone()

    def flat_grad(self) -> Tensor:
        """What lies in the .grad buffers."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters()]
        return parameters_to_vector(grads).clone()

    def put_grad(self, gradient: Tensor) -> None:
        """Fill the .grad buffers from a flat vector."""
        used = 0
        for parameter in self.parameters():
            piece = gradient[used : used + parameter.numel()]
            parameter.grad = piece.view_as(parameter).clone()
            used += parameter.numel()

    def parameters(self) -> list[nn.Parameter]:
        """The module's parameters."""
        return list(self.module.parameters())

    # --- training -------------------------------------------------------------------------------

    def rate(self, task: int) -> float:
        """max(floor, lr·γ^(t-1))."""
        return max(self.h.lr_floor, self.h.learning_rate * self.h.lr_decay ** (task - 1))

    def passes(self, task: int) -> int:
        """Epochs of a task; the first may have its own number."""
        if task == 1 and self.h.first_task_epochs is not None:
            return self.h.first_task_epochs
        return self.h.epochs

    def descend(
        self,
        w: Tensor,
        chosen: list[Pair],
        cuts: list[int],
        task: int,
        purpose: str,
        change: Change | None = None,
    ) -> Tensor:
        """Fresh SGD over consecutive pieces of `chosen`, of the sizes that `cuts` says.

        `change` may alter what lies in the .grad buffers before each step.
        """
        self.load(w)
        optimiser = torch.optim.SGD(self.parameters(), lr=self.rate(task), momentum=self.h.momentum)
        for step, piece in enumerate(torch.arange(len(chosen)).split(cuts)):
            self.trace.append(self.flat())
            batch = self.points(chosen[i] for i in piece.tolist())
            optimiser.zero_grad()
            self.loss(batch, self.factors(batch, purpose, task, step)).backward()
            if change is not None:
                change(step, batch)
            optimiser.step()
            self.after.append(self.flat())
        return self.flat()

    def sgd(self, w: Tensor, task: int, change: Change | None = None) -> Tensor:
        """ŵ_t from w: epochs over one task, each in an order of its own."""
        chosen, cuts = [], []
        for number in range(self.passes(task)):
            order = self.every(task)
            if self.h.shuffle:
                order = self.shuffled(order, "order", task, number)
            chosen += order
            cuts += pieces(len(order), self.h.batch_size)
        return self.descend(w, chosen, cuts, task, "dropout", change)

    def together(self, w: Tensor, chosen: list[Pair], task: int) -> Tensor:
        """SGD on examples of several tasks."""
        cuts = pieces(len(chosen), self.h.batch_size)
        return self.descend(w, chosen, cuts, task, "multitask-dropout")


def _cross_entropy(logits: Tensor, batch: Points) -> Tensor:
    if batch.masked is not None:
        logits = logits.masked_fill(batch.masked, float("-inf"))
    return cross_entropy(logits, batch.labels)


def pieces(size: int, batch: int) -> list[int]:
    """Sizes of the mini-batches of one pass: all full but perhaps the last."""
    return [batch] * (size // batch) + ([size % batch] if size % batch else [])


# --- the methods --------------------------------------------------------------------------------


def sequential(lone: Lone) -> list[Tensor]:
    """ŵ_1 … ŵ_T."""
    minima, w = [], lone.w0
    for task in range(1, lone.tasks + 1):
        w = lone.sgd(w, task)
        minima.append(w)
    return minima


def joint(lone: Lone) -> Tensor:
    """w*_T: epochs over the union of all tasks from w_0, part t of T at task t's learning rate."""
    union = [pair for task in range(1, lone.tasks + 1) for pair in lone.every(task)]
    run = [
        pair
        for number in range(lone.h.epochs)
        for pair in lone.shuffled(union, "multitask-order", number)
    ]
    w = lone.w0
    for part, piece in enumerate(torch.arange(len(run)).tensor_split(lone.tasks), start=1):
        w = lone.together(w, [run[i] for i in piece.tolist()], part)
    return w


def growing_step(lone: Lone, w: Tensor, task: int) -> Tensor:
    """w*_t from w*_{t-1}: passes over some examples of each of the tasks 1..t."""
    chosen = []
    for number in range(lone.passes(task)):
        some = []
        for learned in range(1, task + 1):
            order = lone.shuffled(lone.every(learned), "multitask-draw", task, learned, number)
            some += order[: lone.h.examples_per_task]
        chosen += lone.shuffled(some, "multitask-order", task, number)
    return lone.together(w, chosen, task)


def growing(lone: Lone) -> list[Tensor]:
    """w*_1 … w*_T by the growing schedule."""
    minima, w = [], lone.w0
    for task in range(1, lone.tasks + 1):
        w = growing_step(lone, w, task)
        minima.append(w)
    return minima


@dataclass
class Solutions:
    """What a run of MC-SGD finds, task by task."""

    connected: list[Tensor] = field(default_factory=list)
    sgd: list[Tensor] = field(default_factory=list)
    """ŵ_t, or the inner minimum."""


def current_examples(lone: Lone, task: int) -> list[Pair]:
    """The examples of the current task that J may use."""
    order = lone.every(task)
    if lone.h.shuffle:
        order = lone.shuffled(order, "connect-subset", task)
    return order[: lone.h.connect_examples]


def joint_batches(
    lone: Lone, memory: list[Pair], current: list[Pair], task: int, step: int
) -> tuple[Points, Points]:
    """A batch of the memory and one of the current task, both without replacement."""
    generator = stream(lone.seed, "connect-memory", task, step)
    groups = [memory]
    if getattr(lone.h, "connect_batches", "mixed") == "by_task":
        groups = [[pair for pair in memory if pair.task == old] for old in range(1, task)]
    group = groups[int(torch.randint(len(groups), (1,), generator=generator))]
    order = torch.randperm(len(group), generator=generator)[: lone.h.connect_batch_size]
    now = lone.shuffled(current, "connect-current", task, step)[: lone.h.connect_batch_size]
    return lone.points(group[i] for i in order.tolist()), lone.points(now)


def formula(lone: Lone, w: Tensor, before: Tensor, end: Tensor, old: Points, new: Points) -> Tensor:
    """J(w) = 1/(n+1) Σ_k [L_mem(w̄ + α_k (w - w̄)) + L_t(ŵ + α_k (w - ŵ))], α_k = k/n."""
    n = lone.h.line_samples
    total = torch.zeros((), dtype=torch.float64)
    for k in range(n + 1):
        alpha = k / n
        total = total + lone.loss_at(before + alpha * (w - before), old)
        total = total + lone.loss_at(end + alpha * (w - end), new)
    return total / (n + 1)


def mcsgd(lone: Lone) -> Solutions:
    """MC-SGD as the paper has it: J by its formula, its gradient by autograd through the lines."""
    found = Solutions([lone.sgd(lone.w0, 1)])
    found.sgd = [found.connected[0]]
    memory = lone.remembered(1)
    for task in range(2, lone.tasks + 1):
        before = found.connected[-1]
        start = found.sgd[-1] if lone.h.continue_from == "sequential" else before
        end = lone.sgd(start, task, beside(lone, memory if lone.h.replay_batch_size else [], task))
        w = (before + lone.h.init_position * (end - before)).requires_grad_()
        optimiser = torch.optim.SGD(
            [w], lr=lone.h.connect_learning_rate, momentum=lone.h.connect_momentum
        )
        current = current_examples(lone, task)
        for step in range(lone.h.connect_steps):
            lone.connect_trace.append(w.detach().clone())
            old, new = joint_batches(lone, memory, current, task, step)
            optimiser.zero_grad()
            formula(lone, w, before, end, old, new).backward()
            optimiser.step()
        found.connected.append(w.detach())
        found.sgd.append(end)
        memory += lone.remembered(task)
    return found


# --- the public implementations, with their .grad buffers ----------------------------------------


def walk_uncleared(lone: Lone, start: Tensor, w: Tensor, batch: Points) -> Tensor:
    """Sum of what lies in the .grad buffers after each point of a line; nothing clears them here.

    The loss is a batch mean, divided once more by the batch size.
    """
    total = torch.zeros_like(w)
    for k in range(lone.h.line_samples + 1):
        lone.load(start + k / lone.h.line_samples * (w - start))
        (lone.loss(batch) / len(batch.labels)).backward()
        total += lone.flat_grad()
    return total


class ConnectOptimiser:
    """torch.optim.SGD on a flat vector whose gradient is computed elsewhere."""

    def __init__(self, lone: Lone, before: Tensor, end: Tensor) -> None:
        self.lone = lone
        self.w = before + lone.h.init_position * (end - before)
        self.sgd = torch.optim.SGD(
            [self.w], lr=lone.h.connect_learning_rate, momentum=lone.h.connect_momentum
        )

    def step(self, gradient: Tensor) -> None:
        self.lone.connect_trace.append(self.w.clone())
        self.w.grad = gradient
        self.sgd.step()


def author(lone: Lone) -> Solutions:
    """The authors' release: task batches of the memory beside the current loader, to the end.

    ŵ goes on from ŵ, the memory already holds the current task, gradients pile up along a line and
    are cleared before the next line.
    """
    found, memory = Solutions(), []
    for task in range(1, lone.tasks + 1):
        end = lone.sgd(found.sgd[-1] if found.sgd else lone.w0, task)
        found.sgd.append(end)
        kept, each = lone.remembered(task), lone.h.memory_per_class
        # Batches of one task with as many examples as it has classes.
        memory += [lone.points(kept[first::each]) for first in range(each)]
        if task == 1:
            found.connected.append(end)
            continue
        current = current_examples(lone, task)
        size = lone.h.connect_batch_size
        loader = [
            lone.points(current[i * size : (i + 1) * size])
            for i in range(ceil(len(current) / size))
        ]
        before = found.connected[-1]
        optimiser = ConnectOptimiser(lone, before, end)
        for step in range(max(len(memory), len(loader))):
            gradient = torch.zeros_like(end)
            if step < len(memory):
                lone.module.zero_grad()
                gradient += walk_uncleared(lone, before, optimiser.w, memory[step])
            if step < len(loader):
                lone.module.zero_grad()
                gradient += walk_uncleared(lone, end, optimiser.w, loader[step])
            optimiser.step(gradient)
        found.connected.append(optimiser.w)
    return found


def cl_gym(lone: Lone) -> Solutions:
    """CL-Gym: SGD goes on from w̄; the buffers are cleared once before both lines; one step."""
    found = Solutions([lone.sgd(lone.w0, 1)])
    found.sgd = [found.connected[0]]
    memory = lone.remembered(1)
    for task in range(2, lone.tasks + 1):
        before = found.connected[-1]
        end = lone.sgd(before, task)
        _one_carried_step(lone, found, memory, before, end, task)
        memory = memory + lone.remembered(task)
    return found


def sequel_torch(lone: Lone) -> Solutions:
    """SequeL in PyTorch: as CL-Gym, but from ŵ, and the memory holds the current task already."""
    end = lone.sgd(lone.w0, 1)
    found = Solutions([end], [end])
    memory = lone.remembered(1)
    for task in range(2, lone.tasks + 1):
        end = lone.sgd(end, task)
        memory = memory + lone.remembered(task)
        _one_carried_step(lone, found, memory, found.connected[-1], end, task)
    return found


def _one_carried_step(
    lone: Lone, found: Solutions, memory: list[Pair], before: Tensor, end: Tensor, task: int
) -> None:
    old, new = joint_batches(lone, memory, current_examples(lone, task), task, 0)
    optimiser = ConnectOptimiser(lone, before, end)
    lone.module.zero_grad()
    gradient = walk_uncleared(lone, before, optimiser.w, old)
    gradient += walk_uncleared(lone, end, optimiser.w, new)
    optimiser.step(gradient)
    found.sgd.append(end)
    found.connected.append(optimiser.w)


def sequel_jax(lone: Lone) -> Solutions:
    """SequeL in JAX: clean gradients, each point counts once, and dropout is left on."""
    end = lone.sgd(lone.w0, 1)
    found = Solutions([end], [end])
    memory = lone.remembered(1)
    n = lone.h.line_samples
    for task in range(2, lone.tasks + 1):
        before = found.connected[-1]
        end = lone.sgd(end, task)
        memory = memory + lone.remembered(task)
        old, new = joint_batches(lone, memory, current_examples(lone, task), task, 0)
        optimiser = ConnectOptimiser(lone, before, end)
        gradient = torch.zeros_like(end)
        for line, start, batch in (("memory", before, old), ("current", end, new)):
            for k in range(n + 1):
                lone.module.zero_grad()
                lone.load(start + k / n * (optimiser.w - start))
                factors = lone.factors(batch, "path-dropout", line, task, 0, k)
                lone.loss(batch, factors).backward()
                gradient += lone.flat_grad()
        optimiser.step(gradient)
        found.sgd.append(end)
        found.connected.append(optimiser.w)
    return found


# --- the baselines, and what is not in the paper --------------------------------------------------


def seen_last(lone: Lone, task: int) -> list[Pair]:
    """A task's examples in the order of its last epoch."""
    order = lone.every(task)
    if lone.h.shuffle:
        order = lone.shuffled(order, "order", task, lone.passes(task) - 1)
    return order


def ring(lone: Lone, task: int) -> list[Pair]:
    """One first-in first-out buffer a class, after the task."""
    labels = lone.data[task].labels.tolist()
    buffers: dict[int, list[Pair]] = {label: [] for label in sorted(set(labels))}
    for pair in seen_last(lone, task):
        buffer = buffers[labels[pair.row]]
        buffer.append(pair)
        if len(buffer) > lone.h.memory_per_class:
            buffer.pop(0)
    return [pair for buffer in buffers.values() for pair in buffer]


def reservoir(lone: Lone, memory: list[Pair], task: int, seen: int) -> list[Pair]:
    """Algorithm R over the whole stream; as large as the rings together at its end."""
    classes = lone.setting.benchmark.task_classes(1)
    each = lone.setting.benchmark.classes if classes is None else len(classes)
    capacity = lone.h.memory_per_class * each * lone.tasks
    memory, order = list(memory), seen_last(lone, task)
    generator = stream(lone.seed, "reservoir", task)
    for uniform, pair in zip(
        torch.rand(len(order), generator=generator, dtype=torch.float64).tolist(),
        order,
        strict=True,
    ):
        seen += 1
        if len(memory) < capacity:
            memory.append(pair)
        elif (slot := int(uniform * seen)) < capacity:
            memory[slot] = pair
    return memory


def replayed(lone: Lone, memory: list[Pair], task: int, step: int) -> tuple[int, Tensor]:
    """Size and gradient of one step's replayed batch; the .grad buffers keep what they have."""
    kept = lone.flat_grad()
    drawn = lone.shuffled(memory, "replay", task, step)
    how = "replay_batches" if hasattr(lone.h, "replay_batches") else "connect_batches"
    if getattr(lone.h, how) == "by_task":
        size = min(lone.h.replay_batch_size, len(memory))
        alike = [pair for pair in drawn if pair.task == drawn[0].task]
        drawn = list(islice(cycle(alike), size))
    batch = lone.points(drawn[: lone.h.replay_batch_size])
    lone.module.zero_grad()
    lone.loss(batch, lone.factors(batch, "replay-dropout", task, step)).backward()
    gradient = lone.flat_grad()
    lone.put_grad(kept)
    return len(batch.labels), gradient


def beside(lone: Lone, memory: list[Pair], task: int) -> Change | None:
    """ER's gradient: of the sum of all losses of both batches, over their number."""
    if not memory:
        return None

    def change(step: int, batch: Points) -> None:
        number, gradient = replayed(lone, memory, task, step)
        size = len(batch.labels)
        lone.put_grad((size * lone.flat_grad() + number * gradient) / (size + number))

    return change


def projected(lone: Lone, memory: list[Pair], task: int) -> Change | None:
    """A-GEM's gradient."""
    if not memory:
        return None

    def change(step: int, batch: Points) -> None:
        _, reference = replayed(lone, memory, task, step)
        gradient = lone.flat_grad()
        if torch.dot(gradient, reference) < 0:
            along = torch.dot(gradient, reference) / torch.dot(reference, reference)
            lone.put_grad(gradient - along * reference)

    return change


def replaying(lone: Lone, changed: Callable[[Lone, list[Pair], int], Change | None]) -> Tensor:
    """ER or A-GEM, by what they make of the replayed gradient; the last ŵ."""
    w, memory, seen = lone.w0, list[Pair](), 0
    for task in range(1, lone.tasks + 1):
        w = lone.sgd(w, task, changed(lone, memory, task))
        if lone.h.replay_memory == "ring":
            memory = memory + ring(lone, task)
        else:
            memory = reservoir(lone, memory, task, seen)
        seen += len(lone.data[task].labels)
    return w


def information(lone: Lone, w: Tensor, task: int) -> Tensor:
    """Mean squared gradient of log p of single examples, one backward pass each."""
    chosen = lone.shuffled(lone.every(task), "fisher", task)[: lone.h.fisher_examples]
    uniform = torch.rand(len(chosen), generator=stream(lone.seed, "fisher-labels", task))
    lone.load(w)
    total = torch.zeros_like(w)
    for piece in torch.arange(len(chosen)).split(lone.h.batch_size):
        group = lone.points(chosen[i] for i in piece.tolist())
        for place, i in enumerate(piece.tolist()):
            logits = lone.module(group.images)
            if group.masked is not None:
                logits = logits.masked_fill(group.masked, float("-inf"))
            log_p = logits.log_softmax(dim=1)[place]
            label = int(group.labels[place])
            if lone.h.fisher_labels == "sampled":
                below, label = 0.0, -1
                for c, p in enumerate(log_p.exp().tolist()):
                    below += p
                    if uniform[i] < below:
                        label = c
                        break
            lone.module.zero_grad()
            log_p[label].backward()
            total += lone.flat_grad() ** 2
    return total / len(chosen)


def ewc(lone: Lone) -> Tensor:
    """EWC with one anchor a task, or a single one that moves along; the last ŵ."""
    w, anchors = lone.w0, list[tuple[Tensor, Tensor]]()

    def change(step: int, batch: Points) -> None:
        theta = lone.flat().requires_grad_()
        penalty = torch.zeros((), dtype=torch.float64)
        for strength, anchor in anchors:
            penalty = penalty + lone.h.ewc_strength / 2 * (strength * (theta - anchor) ** 2).sum()
        (pull,) = torch.autograd.grad(penalty, theta)
        lone.put_grad(lone.flat_grad() + pull)

    for task in range(1, lone.tasks + 1):
        w = lone.sgd(w, task, change if anchors else None)
        found = information(lone, w, task)
        if lone.h.ewc_penalty == "online" and anchors:
            anchors = [(lone.h.ewc_decay * anchors[0][0] + found, w)]
        else:
            anchors.append((found, w))
    return w


def between_tasks(lone: Lone) -> Tensor:
    """Weight averaging after every task; the last average."""
    w = lone.sgd(lone.w0, 1)
    for task in range(2, lone.tasks + 1):
        end = lone.sgd(w, task)
        w = (1 - lone.h.average_position) * w + lone.h.average_position * end
    return w


def along_steps(lone: Lone) -> Tensor:
    """The moving average of all steps after task 1; the last one."""
    w = average = lone.sgd(lone.w0, 1)
    for task in range(2, lone.tasks + 1):
        lone.after.clear()
        w = lone.sgd(w, task)
        for step in lone.after:
            average = lone.h.ema_decay * average + (1 - lone.h.ema_decay) * step
    return average
