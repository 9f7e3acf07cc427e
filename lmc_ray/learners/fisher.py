"""The diagonal of the Fisher information: the mean squared gradient of single examples."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lmc_ray.learners.batches import rows, scale
from lmc_ray.learners.descent import Theta
from lmc_ray.learners.hyperparameters import EWC
from lmc_ray.learners.learner import Learner
from lmc_ray.randomness import permutations, stream


def fisher(learner: Learner[EWC], theta: Theta, task: int) -> Theta:
    """1/N Σ_i (∂ log p(y_i | x_i) / ∂θ)² over N training examples of a task, in evaluation mode.

    The gradients are those of single examples, never of a batch. Under batch normalisation each
    example is normalised within its group of `batch_size`. Labels are drawn from the model
    (`sampled`: the Fisher information itself) or the data set's (`empirical`).
    """
    setting, common = learner.setting, learner.common
    examples, allowed = setting.examples(task), setting.allowed(task)
    index = permutations(
        learner.seeds, len(examples.labels), "fisher", task, count=common.fisher_examples
    ).to(setting.device)
    uniform = torch.stack(
        [
            torch.rand(index.shape[1], generator=stream(seed, "fisher-labels", task))
            for seed in learner.seeds
        ]
    ).to(setting.device)
    total = torch.zeros_like(theta)
    size = common.batch_size
    for chosen, draws in zip(index.split(size, dim=1), uniform.split(size, dim=1), strict=True):
        images = scale(rows(examples.images, chosen), setting.dtype)
        labels = examples.labels[chosen]
        if common.fisher_labels == "sampled":
            logits = setting.network.logits(theta, images)
            if allowed is not None:
                logits = logits.masked_fill(~allowed, -torch.inf)
            labels = sample(logits, draws)
        total += setting.network.squared_gradients(theta, images, labels, allowed)
        learner.count(chosen.shape[1])
    return total / index.shape[1]


def sample(
    logits: Float[Tensor, "replicas batch classes"], uniform: Float[Tensor, "replicas batch"]
) -> Int64[Tensor, "replicas batch"]:
    """A class from each softmax, by inverting its distribution function at `uniform` in [0, 1)."""
    cumulative = logits.double().softmax(dim=2).cumsum(dim=2)
    cumulative = cumulative / cumulative[..., -1:]
    return (cumulative <= uniform[..., None]).sum(dim=2)
