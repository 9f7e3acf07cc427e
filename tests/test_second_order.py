"""Convolution and batch normalisation derived twice, against differences and against PyTorch's."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from lmc_ray.models.second_order import batch_norm, conv2d
from lmc_ray.randomness import stream


def drawn(*shape: int, gradient: bool = True) -> Tensor:
    values = torch.randn(shape, generator=stream(len(shape), "drawn"), dtype=torch.float64)
    return values.requires_grad_(gradient)


@pytest.mark.parametrize(("stride", "side", "groups"), [(1, 3, 1), (2, 3, 2), (2, 1, 1)])
@pytest.mark.parametrize("of_images", [True, False])
def test_convolution(stride: int, side: int, groups: int, of_images: bool) -> None:
    x = drawn(2, 4, 5, 5, gradient=of_images)
    weight = drawn(6, 4 // groups, side, side)
    form = stride, side // 2, groups

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return conv2d(x, weight, *form)

    theirs = functional.conv2d(x, weight, None, stride, side // 2, groups=groups)
    assert torch.equal(ours(x, weight), theirs)
    assert gradcheck(ours, (x, weight))
    assert gradgradcheck(ours, (x, weight))


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_normalisation(images: int, affine: bool) -> None:
    x = drawn(images, 4, 2, 3)
    scale, shift = (drawn(4), drawn(4) + 1) if affine else (None, None)

    def ours(x: Tensor, *affine: Tensor) -> Tensor:
        return batch_norm(x, *(affine or (None, None)), epsilon=0.1)

    given = (x, scale, shift) if affine else (x,)
    theirs = functional.batch_norm(x, None, None, scale, shift, training=True, eps=0.1)
    torch.testing.assert_close(ours(*given), theirs, rtol=0, atol=1e-14)
    assert gradcheck(ours, given)
    assert gradgradcheck(ours, given)


def test_a_channel_without_scale_still_knows_what_a_scale_would_do() -> None:
    x, shift = drawn(3, 2, 2, 2), drawn(2)
    scale = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda x, s, b: batch_norm(x, s, b, 1e-5), (x, scale, shift))


def test_one_image_of_one_pixel_is_its_own_mean() -> None:
    x, scale, shift = drawn(1, 2, 1, 1), drawn(2), drawn(2)
    y = batch_norm(x, scale, shift, 1e-5)
    torch.testing.assert_close(y.flatten(), shift, rtol=0, atol=1e-14)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert not first.any()
