"""A-GEM: averaged gradient episodic memory (Chaudhry et al. 2019, arXiv:1812.00420)."""

import torch

from lmc_ray.learners.batches import Batch
from lmc_ray.learners.descent import Adjust, Theta
from lmc_ray.learners.er import ExperienceReplay
from lmc_ray.learners.replay import Replay


def project(gradient: Theta, reference: Theta) -> None:
    """Take from each gradient, in place, what points against its reference (equation 11).

    g ← g - (gᵀg_ref / g_refᵀg_ref) g_ref where gᵀg_ref < 0: the closest gradient along which the
    loss on the memory does not rise, to first order.
    """
    # Only its direction counts, and of a memory that is all but learned by heart the squares of
    # g_ref are 0 in float32.
    smallest = torch.finfo(reference.dtype).tiny
    reference = reference / reference.abs().amax(dim=1, keepdim=True).clamp(min=smallest)
    along = (gradient * reference).sum(dim=1, keepdim=True)
    length = reference.square().sum(dim=1, keepdim=True)
    gradient -= torch.where(along < 0, along / length, 0) * reference


class AveragedGEM(ExperienceReplay):
    """ŵ_t: as ER, but along gradients that do not harm the replayed examples."""

    def adjusted(self, replay: Replay) -> Adjust:
        """The task's gradient, projected."""

        def adjust(step: int, batch: Batch, theta: Theta, gradient: Theta) -> None:
            project(gradient, replay.gradient(theta, step))

        return adjust
