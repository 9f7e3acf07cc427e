"""Replica-stacked networks: pure functions of flat parameters [replicas, parameters]."""

import re

from lmc_ray.errors import UserError
from lmc_ray.models.mlp import MLP
from lmc_ray.models.network import Factors, Network
from lmc_ray.models.resnet import ResNet, ResNet18, StableResNet
from lmc_ray.models.symmetry import Symmetry

__all__ = [
    "MLP",
    "Factors",
    "Network",
    "ResNet",
    "ResNet18",
    "StableResNet",
    "Symmetry",
    "build",
    "normalises",
    "unrounded",
]


def build(name: str, image_shape: tuple[int, ...], classes: int) -> Network:
    """The network called `mlp-<width>-<width>…`, or one of these residual ones.

    `resnet18-<first width>`, `stable-resnet-<first width>`. Each may end in `-bf16`.

    Raises:
        UserError: the name is none of these.
    """
    if re.fullmatch(r"mlp(-[1-9]\d*)+(-bf16)?", name):
        hidden = tuple(int(width) for width in re.findall(r"-(\d+)", name))
        if any(width % 2 for width in hidden):
            raise UserError(f"network '{name}': hidden widths must be even: dropout draws pairs")
        return MLP(image_shape, hidden, classes, half=name.endswith("-bf16"))
    for residual in (ResNet18, StableResNet):
        if found := re.fullmatch(rf"{residual.kind}-([1-9]\d*)(-bf16)?", name):
            return residual(image_shape, int(found[1]), classes, half=found[2] is not None)
    raise UserError(
        f"unknown network '{name}': write mlp-<width>-<width>, e.g. mlp-256-256, resnet18-20 or"
        " stable-resnet-20"
    )


def normalises(name: str) -> bool:
    """Whether the network of a name normalises by its batch, as the residual ones do."""
    return not name.startswith("mlp")


def unrounded(name: str) -> str:
    """The network of a name without `-bf16`: the same one, whose gradient rounds less."""
    return name.removesuffix("-bf16")
