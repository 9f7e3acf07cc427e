"""Stacks of reduced ResNets: a third of the usual width, normalised by the batch alone.

Two kinds of them, which differ in what a block is.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from math import prod, sqrt
from typing import ClassVar, NamedTuple

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


Conv = Callable[..., Tensor]
"""(x, the weight's name, stride = 1): the convolution of all replicas' channels."""
Norm = Callable[..., Tensor]
"""(x, the name before `.scale` and `.shift`; None for none): normalisation by the batch."""


class Block(NamedTuple):
    """Where a block is: the channels before and in it, and its first convolution's stride."""

    stage: int
    name: str
    before: int
    wide: int
    stride: int

    @property
    def reshapes(self) -> bool:
        """Whether its input has another shape than its output, and the shortcut a convolution."""
        return self.stride != 1 or self.before != self.wide


class ResNet(ABC):
    """A stem, eight blocks in four stages, and a head; see `ResNet18` and `StableResNet`.

    Batch normalisation keeps no running statistics: every forward pass normalises by its own batch,
    in training and evaluation alike, so evaluation groups are part of the protocol. There is no
    dropout.

    With `half`, the gradient's convolutions take and give bfloat16 (8 bits of precision, sums in
    float32), and what lies between them is kept in it, faster on CPUs that have it; parameters,
    updates and evaluation stay as they are.
    """

    kind: ClassVar[str]
    hidden: tuple[int, ...] = ()

    def __init__(
        self, image_shape: tuple[int, ...], width: int, classes: int, half: bool = False
    ) -> None:
        self.name = f"{self.kind}-{width}" + ("-bf16" if half else "")
        self.half = half
        self.width = width
        self.blocks = _blocks(width)
        self.layers = ("stem", *(block.name for block in self.blocks), "head")
        shapes: dict[str, tuple[int, ...]] = {"stem": (width, image_shape[0], 3, 3)}
        shapes |= _norm("stem", width)
        for block in self.blocks:
            shapes[f"{block.name}.a"] = (block.wide, block.before, 3, 3)
            shapes |= _norm(f"{block.name}.a", block.wide) | self._more(block)
            if block.reshapes:
                shapes[f"{block.name}.shortcut"] = (block.wide, block.before, 1, 1)
        last = self.blocks[-1].wide
        shapes |= {"head.weight": (classes, last), "head.bias": (classes,)}
        self.layout = Layout(shapes)
        self.symmetries = self._symmetries()
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

    @abstractmethod
    def _more(self, block: Block) -> dict[str, tuple[int, ...]]:
        """A block's parameters beyond its first convolution, that one's norm, and its shortcut."""

    @abstractmethod
    def _block(
        self, x: Float[Tensor, "batch channels *pixels"], block: Block, conv: Conv, norm: Norm
    ) -> Float[Tensor, "batch _channels *_pixels"]:
        """What a block hands on."""

    @abstractmethod
    def _inside(self, block: Block) -> list[list[tuple[str, int]]]:
        """Axes of the units that only this block sees, a list for each group of units."""

    @abstractmethod
    def _onto(self, block: Block) -> list[tuple[str, int]]:
        """Axes of the block's parameters that are its output's units, without its shortcut's."""

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
            raise ValueError(f"{self.name} has no dropout")
        leaves, each = self._losses(theta, images, labels, allowed, half=self.half)
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
        half: bool = False,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "replicas batch"]]:
        """Parameters to derive by, and each example's cross-entropy with its graph."""
        # Leaves of their own: a slice of one leaf would cost a full-size gradient per slice.
        views = self.layout.views(theta.detach())
        leaves = {name: view.detach().requires_grad_() for name, view in views.items()}
        with torch.enable_grad():
            weights = leaves
            if half:
                images = images.bfloat16()
                weights = {
                    name: leaf.bfloat16() if name in self.pixels else leaf.float()
                    for name, leaf in leaves.items()
                }
            logits = self._forward(weights, images).to(theta.dtype)
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
        for block in self.blocks:
            x = self._block(x, block, conv, norm)
            yield x
        bias, weight = weights["head.bias"][:, None], weights["head.weight"]
        means = x.mean(dim=(2, 3), dtype=weight.dtype).unflatten(1, (replicas, -1))
        logits = torch.baddbmm(bias, means.transpose(0, 1), weight.mT)
        yield logits.transpose(0, 1).flatten(1)

    def _symmetries(self) -> tuple[Symmetry, ...]:
        """The residual stream of each stage, which all that adds to it shares, and blocks' insides.

        A stage's blocks write to its stream; they read it, but for the first, which reads the stage
        before. So does the head, as a stage after the last would.
        """
        streams = [_written("stem"), *([] for _ in STRIDES[1:])]
        insides: list[list[tuple[str, int]]] = []
        for block in self.blocks:
            before = block.stage - 1 if block.reshapes else block.stage
            streams[before].append((f"{block.name}.a", 1))
            insides += self._inside(block)
            streams[block.stage] += self._onto(block)
            if block.reshapes:
                streams[before].append((f"{block.name}.shortcut", 1))
                streams[block.stage].append((f"{block.name}.shortcut", 0))
        streams[-1].append(("head.weight", 1))
        return tuple(
            Symmetry(self.layout.shapes[name][axis], tuple(axes))
            for axes in (*streams, *insides)
            for name, axis in axes[:1]
        )


class ResNet18(ResNet):
    """Reduced ResNet-18 of Lopez-Paz and Ranzato 2017; first width 20 has 1,108,680 parameters.

    A block is two convolutions, each normalised, and a ReLU after the sum. The shortcut's
    normalisation has no affine parameters.
    """

    kind = "resnet18"

    def _more(self, block: Block) -> dict[str, tuple[int, ...]]:
        name = f"{block.name}.b"
        return {name: (block.wide, block.wide, 3, 3)} | _norm(name, block.wide)

    def _block(
        self, x: Float[Tensor, "batch channels *pixels"], block: Block, conv: Conv, norm: Norm
    ) -> Float[Tensor, "batch _channels *_pixels"]:
        a, b, shortcut = (f"{block.name}.{part}" for part in ("a", "b", "shortcut"))
        y = norm(conv(x, a, block.stride), a).relu()
        y = norm(conv(y, b), b)
        return (y + (norm(conv(x, shortcut, block.stride)) if block.reshapes else x)).relu()

    def _inside(self, block: Block) -> list[list[tuple[str, int]]]:
        return [[*_written(f"{block.name}.a"), (f"{block.name}.b", 1)]]

    def _onto(self, block: Block) -> list[tuple[str, int]]:
        return _written(f"{block.name}.b")


class StableResNet(ResNet):
    """The network in the code of Stable SGD (Mirzadeh et al. 2020, arXiv:2006.06958).

    A block normalises after its ReLUs and has one convolution (that code declares a second and does
    not call it); its shortcut is not normalised. Ten layers, 496,680 parameters at first width 20.
    That code drops out after each of a block's normalisations and evaluates by running statistics;
    here neither is done.
    """

    kind = "stable-resnet"

    def _more(self, block: Block) -> dict[str, tuple[int, ...]]:
        return _norm(f"{block.name}.sum", block.wide)

    def _block(
        self, x: Float[Tensor, "batch channels *pixels"], block: Block, conv: Conv, norm: Norm
    ) -> Float[Tensor, "batch _channels *_pixels"]:
        a, shortcut = f"{block.name}.a", f"{block.name}.shortcut"
        y = norm(conv(x, a, block.stride).relu(), a)
        y = y + (conv(x, shortcut, block.stride) if block.reshapes else x)
        return norm(y.relu(), f"{block.name}.sum")

    def _inside(self, block: Block) -> list[list[tuple[str, int]]]:
        return []

    def _onto(self, block: Block) -> list[tuple[str, int]]:
        sum_ = f"{block.name}.sum"
        return [*_written(f"{block.name}.a"), (f"{sum_}.scale", 0), (f"{sum_}.shift", 0)]


def outputs(network: ResNet) -> list[int]:
    """Numbers an example in the output of each convolution, the first one first."""
    return [network.layout.shapes[name][0] * pixels for name, pixels in network.pixels.items()]


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.scale": (width,), f"{name}.shift": (width,)}


def _written(name: str) -> list[tuple[str, int]]:
    """Where the units are that a convolution makes and its normalisation scales."""
    return [(name, 0), (f"{name}.scale", 0), (f"{name}.shift", 0)]


def _stage(name: str) -> int:
    """How often the image has been halved where a convolution's output lies."""
    return 0 if name == "stem" else int(name.split(".")[0])


def _blocks(width: int) -> tuple[Block, ...]:
    found: list[Block] = []
    before = width
    for stage, stride in enumerate(STRIDES):
        for block in range(BLOCKS):
            wide = width * 2**stage
            found.append(Block(stage, f"{stage}.{block}", before, wide, 1 if block else stride))
            before = wide
    return tuple(found)
