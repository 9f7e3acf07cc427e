"""How much memory a worker will need, from shapes alone, before anything runs."""

from pathlib import Path

from lmc_ray.models import MLP, Network, ResNet, ResNet18, StableResNet
from lmc_ray.models.resnet import outputs

BASE = 325 * 2**20
"""Bytes of its own that a process has once torch is loaded and has multiplied some matrices."""

RAY = 110 * 2**20
"""Bytes more in a Ray worker: Ray, Arrow and DuckDB."""

_STACKS = 8
"""Parameter vectors a replica: θ, velocity, gradient, a temporary, and what learners carry over."""

_SAVED = {ResNet18.kind: 3.2, StableResNet.kind: 3.9}
"""What autograd keeps of each convolution: its output, normalised, and after ReLU; some twice."""

_LIVE = 4
"""Largest activations that live at the same time where no gradient is wanted."""


def predicted_bytes(
    network: Network, *, batch_size: int, replicas: int, minima: int, group: int, kept: int = 0
) -> int:
    """Peak memory of one worker's own, beyond shared data and what a Ray worker has besides.

    Args:
        network: what it trains.
        batch_size: examples of a replica's largest batch.
        replicas: in its stack.
        minima: evaluated together after a task: 1, 2 with MC-SGD, 4 with a trio.
        group: images a forward pass of the evaluation.
        kept: minima of each replica that are kept for paths or as files.
    """
    parameters = 4 * network.layout.size * replicas * (_STACKS + kept + minima)
    if isinstance(network, ResNet):
        each = outputs(network)
        # On CPUs the forward passes come one after the other, the graphs stay until the backward.
        width = 2 if network.half else 4
        training = width * _SAVED[network.kind] * sum(each) * batch_size * replicas
        evaluation = 4 * _LIVE * max(each) * group
    else:
        assert isinstance(network, MLP)
        pixels, *units = network.widths
        training = 4 * (2 * pixels + 6 * sum(units)) * batch_size * replicas
        evaluation = 4 * (2 * pixels + 2 * sum(units) * replicas * minima) * group
    return int(BASE + parameters + max(training, evaluation))


def private_bytes() -> int | None:
    """Resident memory that no other process shares, where the system tells (Linux)."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        return None
    lines = rollup.read_text().splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return 1024 * sum(sizes)
