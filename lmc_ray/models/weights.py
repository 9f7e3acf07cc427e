"""One replica's weights as a safetensors file: a named tensor for each parameter."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lmc_ray.errors import UserError
from lmc_ray.models.network import Network


def to_bytes(
    network: Network, theta: Float[Tensor, " parameters"], about: Mapping[str, str]
) -> bytes:
    """The file's content; `about` goes into its metadata beside the network's name."""
    views = network.layout.views(theta.detach().cpu()[None])
    named = {name: view[0].contiguous() for name, view in views.items()}
    return save(named, {"network": network.name, **about})


def from_bytes(network: Network, data: bytes) -> Float[Tensor, " parameters"]:
    """The flat parameter vector of such a file.

    Raises:
        UserError: it is no safetensors file, or the weights are another network's.
    """
    try:
        named = load(data)
    except SafetensorError as problem:
        raise UserError(f"not a safetensors file ({problem})") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    if shapes != network.layout.shapes:
        raise UserError(f"its weights are not those of a {network.name} for these images")
    return torch.cat([named[name].flatten() for name in network.layout.shapes])
