"""Accuracy and loss of a stack of networks on a set of images."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import log_softmax

from lmc_ray.benchmarks import Examples
from lmc_ray.learners.batches import scale
from lmc_ray.models import Network

EVALUATION_GROUP = 500
"""Images a forward pass of the protocol (matters under batch normalisation)."""


@torch.no_grad()
def evaluate(
    network: Network,
    theta: Float[Tensor, "replicas parameters"],
    examples: Examples,
    allowed: Bool[Tensor, "1 1 classes"] | None,
    group: int,
) -> tuple[Float[Tensor, " replicas"], Float[Tensor, " replicas"]]:
    """Accuracy (a fraction) and mean cross-entropy of every replica, in float64.

    Args:
        network: the network.
        theta: any number of replicas: seeds, minima, points of a path.
        examples: images of one task, in the benchmark's fixed order.
        allowed: the task's classes; None for all.
        group: images a forward pass. Under batch normalisation it is part of the protocol: each
            group is normalised by its own statistics.
    """
    replicas, size = len(theta), len(examples.labels)
    correct = torch.zeros(replicas, dtype=torch.float64, device=theta.device)
    loss = torch.zeros_like(correct)
    for start in range(0, size, group):
        now = slice(start, start + group)
        images = scale(examples.images[now].to(theta.device), theta.dtype)
        labels = examples.labels[now].to(theta.device).expand(replicas, -1)
        logits = network.logits(theta, images.expand(replicas, *images.shape))
        if allowed is not None:
            logits = logits.masked_fill(~allowed, -torch.inf)
        log_p = log_softmax(logits, dim=2)
        loss -= log_p.gather(2, labels[:, :, None]).double().sum(dim=(1, 2))
        correct += (logits.argmax(dim=2) == labels).sum(dim=1)
    return correct / size, loss / size
