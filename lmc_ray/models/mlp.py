"""A stack of multilayer perceptrons with ReLU and dropout, its gradient written out.

The backward pass is ours and not autograd's because it writes straight into the flat gradient and
spares the copies: a step is then bound by its matrix products.
"""

from collections.abc import Iterator, Sequence
from math import prod, sqrt

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import log_softmax

from lmc_ray.models.layout import Layout
from lmc_ray.models.network import Factors
from lmc_ray.models.replayed import replayed
from lmc_ray.models.symmetry import Symmetry


class MLP:
    """Fully connected ReLU network, e.g. 784-256-256-10 (Mirzadeh et al. 2021, appendix A).

    With `half`, the gradient's matrix products take and give bfloat16 (8 bits of precision, sums in
    float32), faster on CPUs that have it; parameters, updates and evaluation stay as they are.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        hidden: tuple[int, ...],
        classes: int,
        half: bool = False,
    ) -> None:
        self.name = "-".join(("mlp", *map(str, hidden), *(["bf16"] if half else [])))
        self.half = half
        self.hidden = hidden
        self.widths = (prod(image_shape), *hidden, classes)
        self.depth = len(hidden) + 1
        self.layers = tuple(map(str, range(self.depth)))
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (fan_in, fan_out) in enumerate(zip(self.widths, self.widths[1:], strict=False)):
            shapes[f"{layer}.weight"] = (fan_out, fan_in)
            shapes[f"{layer}.bias"] = (fan_out,)
        self.layout = Layout(shapes)
        self.symmetries = tuple(
            Symmetry(width, ((f"{i}.weight", 0), (f"{i}.bias", 0), (f"{i + 1}.weight", 1)))
            for i, width in enumerate(hidden)
        )
        pairs = zip(self.widths, self.widths[1:], strict=False)
        self.multiply_adds = tuple(fan_in * fan_out for fan_in, fan_out in pairs)

    def initial(self, generator: Generator) -> Float[Tensor, " parameters"]:
        """Weights and biases uniform in ±1/√fan_in, as torch.nn.Linear does."""
        theta = torch.empty(1, self.layout.size, dtype=torch.float64)
        views = self.layout.views(theta)
        for layer in range(self.depth):
            bound = 1 / sqrt(self.widths[layer])
            views[f"{layer}.weight"].uniform_(-bound, bound, generator=generator)
            views[f"{layer}.bias"].uniform_(-bound, bound, generator=generator)
        return theta[0]

    def logits(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
    ) -> Float[Tensor, "replicas batch classes"]:
        """See `Network.logits`."""
        return self._activations(theta, images, None)[-1]

    def features(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
    ) -> dict[str, Float[Tensor, "replicas batch _units"]]:
        """See `Network.features`."""
        _, *outputs = self._activations(theta, images, None)
        return dict(zip(self.layers, outputs, strict=True))

    @replayed
    def loss_and_gradient(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
        labels: Int64[Tensor, "replicas batch"],
        allowed: Bool[Tensor, "#replicas #batch classes"] | None = None,
        factors: Factors | None = None,
        out: Float[Tensor, "replicas parameters"] | None = None,
    ) -> tuple[Float[Tensor, " replicas"], Float[Tensor, "replicas parameters"]]:
        """See `Network.loss_and_gradient`."""
        by_layer = None if factors is None else factors.split(self.hidden, dim=2)
        weights = theta.bfloat16() if self.half else theta
        activations = self._activations(weights, images.to(weights.dtype), by_layer)
        logits = activations.pop().to(theta.dtype)
        loss, delta = _cross_entropy(logits, labels, allowed)
        delta = delta.div_(labels.shape[1]).to(weights.dtype)
        gradient = torch.empty_like(theta) if out is None else out
        slots = self.layout.views(gradient)
        for layer, above, below in self._backward(weights, activations, delta, by_layer):
            weight, bias = slots[f"{layer}.weight"], slots[f"{layer}.bias"]
            if self.half:  # a product cannot be written out in another type than its own
                weight.copy_(torch.bmm(above.mT, below))
            else:
                torch.bmm(above.mT, below, out=weight)
            torch.sum(above, dim=1, dtype=theta.dtype, out=bias)
        return loss.mean(dim=1), gradient

    def squared_gradients(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
        labels: Int64[Tensor, "replicas batch"],
        allowed: Bool[Tensor, "#replicas #batch classes"] | None = None,
    ) -> Float[Tensor, "replicas parameters"]:
        """See `Network.squared_gradients`.

        One example's gradient of a weight matrix is an outer product, and so is its square.
        """
        activations = self._activations(theta, images, None)
        _, delta = _cross_entropy(activations.pop(), labels, allowed)
        squares = torch.empty_like(theta)
        slots = self.layout.views(squares)
        for layer, above, below in self._backward(theta, activations, delta, None):
            torch.bmm(above.square().mT, below.square(), out=slots[f"{layer}.weight"])
            torch.sum(above.square(), dim=1, out=slots[f"{layer}.bias"])
        return squares

    def _backward(
        self,
        theta: Float[Tensor, "replicas parameters"],
        activations: list[Tensor],
        delta: Float[Tensor, "replicas batch classes"],
        by_layer: Sequence[Tensor] | None,
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(layer, ∂loss/∂ its outputs, its inputs), from the last layer down to the first."""
        weights = self.layout.views(theta)
        for layer in reversed(range(self.depth)):
            below = activations[layer]
            yield layer, delta, below
            if layer == 0:
                break  # the images need no gradient
            delta = torch.bmm(delta, weights[f"{layer}.weight"])
            if by_layer is not None:
                delta *= by_layer[layer - 1]
            # A unit is 0 where ReLU is flat (or dropout took it): no gradient passes there.
            delta = torch.ops.aten.threshold_backward(delta, below, 0)

    def _activations(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
        by_layer: Sequence[Tensor] | None,
    ) -> list[Tensor]:
        """Input, each hidden layer after ReLU and dropout, logits."""
        weights = self.layout.views(theta)
        activations = [images.flatten(2)]
        for layer in range(self.depth):
            weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
            z = torch.baddbmm(bias[:, None], activations[-1], weight.mT)
            if layer < self.depth - 1:
                z.relu_()
                if by_layer is not None:
                    z *= by_layer[layer]
            activations.append(z)
        return activations


def _cross_entropy(
    logits: Float[Tensor, "replicas batch classes"],
    labels: Int64[Tensor, "replicas batch"],
    allowed: Bool[Tensor, "#replicas #batch classes"] | None,
) -> tuple[Float[Tensor, "replicas batch"], Float[Tensor, "replicas batch classes"]]:
    """Each example's cross-entropy, and its gradient softmax - one-hot."""
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    log_p = log_softmax(logits, dim=2)
    target = labels[:, :, None]
    loss = -log_p.gather(2, target)[:, :, 0]
    delta = log_p.exp_()
    delta.scatter_add_(2, target, delta.new_full((1, 1, 1), -1.0).expand(target.shape))
    return loss, delta
