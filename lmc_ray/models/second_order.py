"""Convolution and batch normalisation whose second derivatives cost about what the first ones do.

PyTorch derives twice through either, too, but by many small operations: the ResNet's product with
its Hessian took twice as long with them (pytorch/pytorch#3076 is about the normalisation). Each
layer here is a function, its gradient a function too, and the gradient of that is written out in
the kernels of the first derivative.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import conv2d as once_conv2d

Images = Float[Tensor, "batch _channels _height _width"]
Channels = Float[Tensor, " channels"]


def conv2d(x: Images, weight: Tensor, stride: int, padding: int, groups: int) -> Images:
    """`torch.nn.functional.conv2d` without a bias, for squares."""
    return _Convolution.apply(x, weight, (stride, padding, groups))


def batch_norm(x: Images, scale: Channels | None, shift: Channels | None, epsilon: float) -> Images:
    """`torch.nn.functional.batch_norm` by this batch's statistics, of one image or more."""
    if scale is None or shift is None:
        scale, shift = x.new_ones(x.shape[1]), x.new_zeros(x.shape[1])
    return _Normalisation.apply(x, scale, shift, epsilon)


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, x: Images, weight: Tensor, form: tuple[int, int, int]) -> Images:
        ctx.save_for_backward(x, weight)
        ctx.form = form
        return _convolved(x, weight, form)

    @staticmethod
    def backward(ctx: Any, *along: Any) -> tuple[Tensor | None, ...]:
        (g,) = along
        return *_ConvolutionGradient.apply(g, *ctx.saved_tensors, ctx.form), None


class _ConvolutionGradient(Function):
    """(∂/∂x, ∂/∂W) of Σ g·conv(x, W): bilinear in (g, W) and (x, g)."""

    @staticmethod
    def forward(
        ctx: Any, g: Images, x: Images, weight: Tensor, form: tuple[int, int, int]
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(g, x, weight)
        ctx.form = form
        return _transposed(g, x, weight, form, ctx.needs_input_grad[1], ctx.needs_input_grad[2])

    @staticmethod
    def backward(ctx: Any, *along: Any) -> tuple[Tensor | None, ...]:
        u, v = along
        g, x, weight = ctx.saved_tensors
        along_g = _convolved(x, v, ctx.form)
        if u is None:  # images have no gradient
            return along_g, None, None, None
        along_g += _convolved(u, weight, ctx.form)
        along_x, _ = _transposed(g, x, v, ctx.form, True, False)
        _, along_weight = _transposed(g, u, weight, ctx.form, False, True)
        return along_g, along_x, along_weight, None


def _convolved(x: Images, weight: Tensor, form: tuple[int, int, int]) -> Images:
    stride, padding, groups = form
    return once_conv2d(x, weight, None, stride, padding, groups=groups)


def _transposed(
    g: Images, x: Images, weight: Tensor, form: tuple[int, int, int], of_x: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Both gradients of Σ g·conv(x, W), where asked."""
    stride, padding, groups = form
    along_x, along_weight, _ = torch.ops.aten.convolution_backward(
        g, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups,
        [of_x, of_weight, False],
    )  # fmt: skip
    return along_x, along_weight


class _Normalisation(Function):
    """y = s x̂ + b with x̂ = (x - μ) r, where μ is the mean and r = 1/√(variance + ε)."""

    @staticmethod
    def forward(ctx: Any, x: Images, scale: Channels, shift: Channels, epsilon: float) -> Images:
        y, mean, r = torch.native_batch_norm(x, scale, shift, None, None, True, 0.0, epsilon)
        ctx.save_for_backward(x, scale, mean, r)
        return y

    @staticmethod
    def backward(ctx: Any, *along: Any) -> tuple[Tensor | None, ...]:
        (g,) = along
        return *_NormalisationGradient.apply(g, *ctx.saved_tensors), None


class _NormalisationGradient(Function):
    """(∂/∂x, ∂/∂s, ∂/∂b) of Σ g·y = (s r P g, Σ g x̂, Σ g).

    P v = v - ⟨v⟩ - x̂⟨v x̂⟩, where ⟨·⟩ is the mean over the batch and its pixels. P is symmetric, and
    r P is also how x̂ follows x.
    """

    @staticmethod
    def forward(
        ctx: Any, g: Images, x: Images, scale: Channels, mean: Channels, r: Channels
    ) -> tuple[Images, Channels, Channels]:
        along_x, g_xhat, g_sum = _normalisation_gradient(g, x, scale, mean, r)
        ctx.save_for_backward(g, x, scale, mean, r, g_xhat, g_sum)
        return along_x, g_xhat, g_sum

    @staticmethod
    def backward(ctx: Any, *along: Any) -> tuple[Tensor | None, ...]:
        """Of ℓ = Σ u·s r P g + p·Σ g x̂ + q·Σ g, along g, x and s."""
        u, p, q = along
        g, x, scale, mean, r, g_xhat, g_sum = ctx.saved_tensors
        rpu, u_xhat, u_sum = _normalisation_gradient(u, x, torch.ones_like(scale), mean, r)
        along_scale = (g * rpu).sum(dim=(0, 2, 3))
        along_g = _affine(x, p * r, q - p * r * mean).addcmul_(rpu, _wide(scale))
        # ∂ℓ/∂x̂ = a u + c g = h goes on as r P h; ∂ℓ/∂r = s along_scale / r as -r² x̂/n.
        count = x.numel() / x.shape[1]
        a = -scale * r * g_xhat / count
        c = p - scale * r * u_xhat / count
        h_mean = (a * u_sum + c * g_sum) / count
        h_xhat = (a * u_xhat + c * g_xhat) / count
        of_x = -(r**2) * (h_xhat + scale * along_scale / count)
        along_x = _affine(x, of_x, -r * h_mean - of_x * mean)
        along_x.addcmul_(u, _wide(r * a)).addcmul_(g, _wide(r * c))
        return along_g, along_x, along_scale, None, None


def _normalisation_gradient(
    g: Images, x: Images, scale: Channels, mean: Channels, r: Channels
) -> tuple[Images, Channels, Channels]:
    """(s r P g, Σ g x̂, Σ g); ε is in r already."""
    return torch.ops.aten.native_batch_norm_backward(
        g, x, scale, None, None, mean, r, True, 0.0, [True, True, True]
    )


def _affine(x: Images, factor: Channels, shift: Channels) -> Images:
    return torch.addcmul(_wide(shift), x, _wide(factor))


def _wide(each: Channels) -> Tensor:
    return each[:, None, None]
