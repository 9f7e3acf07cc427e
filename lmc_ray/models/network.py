"""What every replica-stacked network can do."""

from typing import Protocol

from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from lmc_ray.models.layout import Layout
from lmc_ray.models.symmetry import Symmetry

Factors = Float[Tensor, "replicas batch units"]
"""Factors of inverted dropout for all hidden layers side by side: 0 or 1/(1 - p)."""


class Network(Protocol):
    """A network as pure functions of a stack of flat parameter vectors θ: [replicas, parameters].

    Images are floats in [0, 1]; `allowed` masks the logits of classes that a task does not have.
    """

    name: str
    layout: Layout
    multiply_adds: tuple[int, ...]
    """Of one example's forward pass, layer by layer, the first one first; for counting FLOPs."""
    hidden: tuple[int, ...]
    """Units of each layer that dropout acts on; empty for a network without dropout."""
    layers: tuple[str, ...]
    """In the order of the forward pass; a parameter's name is its layer's, or starts with `layer.`.
    """
    symmetries: tuple[Symmetry, ...]
    """Every axis of hidden units is in one of them; permutations of different ones commute."""

    def initial(self, generator: Generator) -> Float[Tensor, " parameters"]:
        """w_0 of one replica in float64, PyTorch's default initialisation."""
        ...

    def logits(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
    ) -> Float[Tensor, "replicas batch classes"]:
        """Evaluation mode: no dropout; batch normalisation, if any, by this batch's statistics."""
        ...

    def features(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
    ) -> dict[str, Float[Tensor, "replicas batch _units"]]:
        """What each of `layers` hands on in evaluation mode, its ReLU done; logits of the last."""
        ...

    def loss_and_gradient(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
        labels: Int64[Tensor, "replicas batch"],
        allowed: Bool[Tensor, "#replicas #batch classes"] | None = None,
        factors: Factors | None = None,
        out: Float[Tensor, "replicas parameters"] | None = None,
    ) -> tuple[Float[Tensor, " replicas"], Float[Tensor, "replicas parameters"]]:
        """Mean cross-entropy over the batch and its gradient, per replica.

        Args:
            theta: parameters.
            images: the batch, each replica its own.
            labels: 0-based classes.
            allowed: classes that count; None for all.
            factors: dropout on the hidden units; None for evaluation mode.
            out: where to write the gradient; allocated if None.
        """
        ...

    def squared_gradients(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
        labels: Int64[Tensor, "replicas batch"],
        allowed: Bool[Tensor, "#replicas #batch classes"] | None = None,
    ) -> Float[Tensor, "replicas parameters"]:
        """Σ over the batch of each example's own squared gradient of the cross-entropy.

        In evaluation mode; batch normalisation, if any, by this batch's statistics.
        """
        ...
