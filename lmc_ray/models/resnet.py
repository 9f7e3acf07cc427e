"""A stack of reduced ResNet-18s: a third of the usual width, normalised by the batch alone."""

from collections import deque
from collections.abc import Iterator
from math import prod, sqrt

import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor
from torch.nn.functional import conv2d, cross_entropy

from lmc_ray.models import second_order
from lmc_ray.models.layout import Layout
from lmc_ray.models.network import Factors
from lmc_ray.models.replayed import replayed
from lmc_ray.models.symmetry import Symmetry

STRIDES = (1, 2, 2, 2)
BLOCKS = 2
_EPSILON = 1e-5  # of batch normalisation, as in torch.nn.BatchNorm2d


class ResNet18:
    """Reduced ResNet-18 of Lopez-Paz and Ranzato 2017; first width 20 has 1,108,680 parameters.

    Batch normalisation keeps no running statistics: every forward pass normalises by its own batch,
    in training and evaluation alike, so evaluation groups are part of the protocol. The shortcut's
    normalisation has no affine parameters. There is no dropout.
    """

    hidden: tuple[int, ...] = ()

    def __init__(self, image_shape: tuple[int, ...], width: int, classes: int) -> None:
        self.name = f"resnet18-{width}"
        self.width = width
        self.layers = ("stem", *(f"{stage}.{block}" for stage, block, _ in _blocks()), "head")
        shapes: dict[str, tuple[int, ...]] = {"stem": (width, image_shape[0], 3, 3)}
        shapes |= _norm("stem", width)
        before = width
        for stage, block, stride in _blocks():
            wide = width * 2**stage
            name = f"{stage}.{block}"
            shapes[f"{name}.a"] = (wide, before, 3, 3)
            shapes |= _norm(f"{name}.a", wide)
            shapes[f"{name}.b"] = (wide, wide, 3, 3)
            shapes |= _norm(f"{name}.b", wide)
            if stride != 1 or before != wide:
                shapes[f"{name}.shortcut"] = (wide, before, 1, 1)
            before = wide
        shapes["head.weight"] = (classes, before)
        shapes["head.bias"] = (classes,)
        self.layout = Layout(shapes)
        self.symmetries = _symmetries(shapes)
        self.pixels = {
            name: prod(-(-side // 2 ** _stage(name)) for side in image_shape[1:])
            for name, shape in shapes.items()
            if len(shape) == 4
        }
        """Of each convolution's output: a stride of 2 halves a side, rounded up."""
        self.multiply_adds = tuple(
            prod(shape) * self.pixels.get(name, 1)
            for name, shape in shapes.items()
            if len(shape) > 1
        )

    def initial(self, generator: Generator) -> Float[Tensor, " parameters"]:
        """Convolutions and head uniform in ±1/√fan_in, normalisation scale 1 and shift 0."""
        theta = torch.empty(1, self.layout.size, dtype=torch.float64)
        fan_in = 1
        for name, view in self.layout.views(theta).items():
            if name.endswith(".scale"):
                view.fill_(1)
            elif name.endswith(".shift"):
                view.zero_()
            else:
                # A bias follows its weight and shares its fan-in, as in torch.nn.Linear.
                fan_in = fan_in if name.endswith(".bias") else view[0, 0].numel()
                view.uniform_(-1 / sqrt(fan_in), 1 / sqrt(fan_in), generator=generator)
        return theta[0]

    def logits(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
    ) -> Float[Tensor, "replicas batch classes"]:
        """See `Network.logits`."""
        # Who wants a gradient from here wants to derive it again: the first is there already.
        return self._forward(self.layout.views(theta), images, twice=theta.requires_grad)

    def features(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
    ) -> dict[str, Float[Tensor, "replicas batch _units"]]:
        """See `Network.features`; channels and pixels side by side."""
        alone = [
            [x.flatten(1) for x in self._outputs(self.layout.views(one), x)]
            for one, x in zip(theta.split(1), images.split(1), strict=True)
        ]
        each = [torch.stack(outputs) for outputs in zip(*alone, strict=True)]
        return dict(zip(self.layers, each, strict=True))

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
        """See `Network.loss_and_gradient`; there is nothing to drop, so factors are refused."""
        if factors is not None:
            raise ValueError("the reduced ResNet-18 has no dropout")
        leaves, each = self._losses(theta, images, labels, allowed)
        gradients = torch.autograd.grad(each.mean(dim=1).sum(), list(leaves.values()))
        gradient = torch.empty_like(theta) if out is None else out
        for slot, part in zip(self.layout.views(gradient).values(), gradients, strict=True):
            slot.copy_(part)
        return each.detach().mean(dim=1), gradient

    def squared_gradients(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
        labels: Int64[Tensor, "replicas batch"],
        allowed: Bool[Tensor, "#replicas #batch classes"] | None = None,
    ) -> Float[Tensor, "replicas parameters"]:
        """See `Network.squared_gradients`; one backward pass an example through its whole group."""
        leaves, each = self._losses(theta, images, labels, allowed)
        squares = torch.zeros_like(theta)
        slots = self.layout.views(squares).values()
        for example in each.unbind(dim=1):
            gradients = torch.autograd.grad(example.sum(), list(leaves.values()), retain_graph=True)
            for slot, part in zip(slots, gradients, strict=True):
                slot.addcmul_(part, part)
        return squares

    def _losses(
        self,
        theta: Float[Tensor, "replicas parameters"],
        images: Float[Tensor, "replicas batch *image"],
        labels: Int64[Tensor, "replicas batch"],
        allowed: Bool[Tensor, "#replicas #batch classes"] | None,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "replicas batch"]]:
        """Parameters to derive by, and each example's cross-entropy with its graph."""
        # Leaves of their own: a slice of one leaf would cost a full-size gradient per slice.
        views = self.layout.views(theta.detach())
        leaves = {name: view.detach().requires_grad_() for name, view in views.items()}
        with torch.enable_grad():
            logits = self._forward(leaves, images)
            if allowed is not None:
                logits = logits.masked_fill(~allowed, -torch.inf)
            each = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            return leaves, each.view(labels.shape)

    def _forward(
        self,
        weights: dict[str, Tensor],
        images: Float[Tensor, "replicas batch *image"],
        twice: bool = False,
    ) -> Float[Tensor, "replicas batch classes"]:
        """Logits, made to be derived twice if asked."""
        if images.device.type == "cpu" and len(images) > 1:
            # On CPUs grouped convolutions are slower than one replica after the other.
            alone = [
                self._grouped(
                    {name: w[r : r + 1] for name, w in weights.items()}, images[r : r + 1], twice
                )
                for r in range(len(images))
            ]
            return torch.cat(alone)
        return self._grouped(weights, images, twice)

    def _grouped(
        self,
        weights: dict[str, Tensor],
        images: Float[Tensor, "replicas batch *image"],
        twice: bool,
    ) -> Float[Tensor, "replicas batch classes"]:
        """All replicas at once."""
        # Only the last output need be kept.
        (last,) = deque(self._outputs(weights, images, twice), maxlen=1)
        return last.unflatten(1, (len(images), -1)).transpose(0, 1)

    def _outputs(
        self,
        weights: dict[str, Tensor],
        images: Float[Tensor, "replicas batch *image"],
        twice: bool = False,
    ) -> Iterator[Float[Tensor, "batch channels *pixels"]]:
        """What each layer hands on; replicas are groups of channels, replicas·channels in all."""
        replicas = len(images)

        def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
            padding = weights[name].shape[-1] // 2
            weight = weights[name].flatten(0, 1)
            if twice:
                return second_order.conv2d(x, weight, stride, padding, replicas)
            return conv2d(x, weight, None, stride, padding, groups=replicas)

        def norm(x: Tensor, name: str | None = None) -> Tensor:
            scale = weights[f"{name}.scale"].flatten() if name else None
            shift = weights[f"{name}.shift"].flatten() if name else None
            if twice:
                return second_order.batch_norm(x, scale, shift, _EPSILON)
            # Not torch.nn.functional's: it refuses a last batch of one image where one pixel is
            # left of it. Alone it is its own mean, and 0 once normalised.
            cudnn = torch.backends.cudnn.enabled
            return torch.batch_norm(x, scale, shift, None, None, True, 0.1, _EPSILON, cudnn)

        # Channels last: on CPUs half the time for the first stages' narrow convolutions, on GPUs
        # four fifths of it for a stack, and never slower.
        x = images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        x = norm(conv(x, "stem"), "stem").relu()
        yield x
        for stage, block, stride in _blocks():
            name = f"{stage}.{block}"
            y = norm(conv(x, f"{name}.a", stride), f"{name}.a").relu()
            y = norm(conv(y, f"{name}.b"), f"{name}.b")
            shortcut = f"{name}.shortcut"
            x = (y + (norm(conv(x, shortcut, stride)) if shortcut in weights else x)).relu()
            yield x
        means = x.mean(dim=(2, 3)).unflatten(1, (replicas, -1)).transpose(0, 1)
        logits = torch.baddbmm(weights["head.bias"][:, None], means, weights["head.weight"].mT)
        yield logits.transpose(0, 1).flatten(1)


def outputs(network: ResNet18) -> list[int]:
    """Numbers an example in the output of each convolution, the first one first."""
    return [network.layout.shapes[name][0] * pixels for name, pixels in network.pixels.items()]


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.scale": (width,), f"{name}.shift": (width,)}


def _symmetries(shapes: dict[str, tuple[int, ...]]) -> tuple[Symmetry, ...]:
    """The residual stream of each stage, which all that adds to it shares, and each block's inside.

    A stage's blocks write to its stream; they read it, but for the first, which reads the stage
    before. So does the head, as a stage after the last would.
    """

    def written(name: str) -> list[tuple[str, int]]:
        return [(name, 0), (f"{name}.scale", 0), (f"{name}.shift", 0)]

    streams = [written("stem"), *([] for _ in STRIDES[1:])]
    insides: list[list[tuple[str, int]]] = []
    for stage, block, _ in _blocks():
        name = f"{stage}.{block}"
        before = stage - 1 if block == 0 and stage > 0 else stage
        streams[before].append((f"{name}.a", 1))
        insides.append([*written(f"{name}.a"), (f"{name}.b", 1)])
        streams[stage] += written(f"{name}.b")
        if f"{name}.shortcut" in shapes:
            streams[before].append((f"{name}.shortcut", 1))
            streams[stage].append((f"{name}.shortcut", 0))
    streams[-1].append(("head.weight", 1))
    return tuple(
        Symmetry(shapes[name][axis], tuple(axes))
        for axes in (*streams, *insides)
        for name, axis in axes[:1]
    )


def _stage(name: str) -> int:
    """How often the image has been halved where a convolution's output lies."""
    return 0 if name == "stem" else int(name.split(".")[0])


def _blocks() -> list[tuple[int, int, int]]:
    """(stage, block, stride of the block's first convolution)."""
    return [
        (stage, block, stride if block == 0 else 1)
        for stage, stride in enumerate(STRIDES)
        for block in range(BLOCKS)
    ]
