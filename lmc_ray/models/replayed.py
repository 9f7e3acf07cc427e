"""CUDA graphs: the many small kernels of a gradient in one launch.

A stack's step is short: to ask a GPU for its kernels one after the other takes longer than they do.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

Gradient = TypeVar("Gradient", bound=Callable[..., tuple[Tensor, Tensor]])

_EAGER = 2
"""Calls of one kind before a graph of them is made: they warm up, and a last batch needs none."""

_KEPT = 8
"""Graphs of one network; each holds the memory of its intermediate results."""


def replayed(loss_and_gradient: Gradient) -> Gradient:
    """Record a network's `loss_and_gradient` on the GPU, and replay it when called alike again.

    Calls are alike if their tensors have the same shapes and, where the caller says where the
    gradient goes, if θ and gradient lie where they lay. On CPUs nothing is recorded.
    """
    graphs: WeakKeyDictionary[Any, _Graphs] = WeakKeyDictionary()

    @wraps(loss_and_gradient)
    def call_or_replay(
        network: Any,
        theta: Tensor,
        images: Tensor,
        labels: Tensor,
        allowed: Tensor | None = None,
        factors: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        arguments = theta, images, labels, allowed, factors
        if theta.device.type != "cuda":
            return loss_and_gradient(network, *arguments, out)
        own = graphs.setdefault(network, _Graphs())
        return own.call(lambda *tensors: loss_and_gradient(network, *tensors), arguments, out)

    return cast(Gradient, call_or_replay)


class _Graphs:
    """The graphs of one network, the last used ones."""

    def __init__(self) -> None:
        self.calls: Counter[Any] = Counter()
        self.graphs: OrderedDict[Any, _Graph] = OrderedDict()

    def call(
        self,
        function: Callable[..., tuple[Tensor, Tensor]],
        arguments: tuple[Tensor | None, ...],
        out: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The function's results, by a graph if there is one."""
        theta = cast(Tensor, arguments[0])
        bound = None if out is None else (theta.data_ptr(), out.data_ptr())
        kind = bound, *(None if each is None else (each.shape, each.dtype) for each in arguments)
        if kind not in self.graphs:
            self.calls[kind] += 1
            if self.calls[kind] <= _EAGER:
                return function(*arguments, out)
            del self.calls[kind]
            self.graphs[kind] = _Graph(function, arguments, out)
            if len(self.graphs) > _KEPT:
                self.graphs.popitem(last=False)
        self.graphs.move_to_end(kind)
        return self.graphs[kind].replay(arguments, out)


class _Graph:
    """A recorded call. Its inputs are copied to where the graph reads them."""

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, Tensor]],
        arguments: tuple[Tensor | None, ...],
        out: Tensor | None,
    ) -> None:
        theta = cast(Tensor, arguments[0])
        # A caller that gives `out` updates θ in place: neither is copied, nor kept alive.
        where = theta.clone() if out is None else theta
        inputs = [None if each is None else each.clone() for each in arguments[1:]]
        gradient = torch.empty_like(theta) if out is None else out
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss, _ = function(where, *inputs, gradient)
        self._inputs = [where if out is None else None, *inputs]
        self._gradient = gradient if out is None else None

    def replay(
        self, arguments: tuple[Tensor | None, ...], out: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradient; what is returned is the caller's own."""
        for mine, given in zip(self._inputs, arguments, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given)
        self._graph.replay()
        gradient = out if self._gradient is None else self._gradient.clone()
        return self._loss.clone(), cast(Tensor, gradient)
