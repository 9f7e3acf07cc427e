"""What most people would write: `nn.Module`, autograd and `optim.SGD`, one seed at a time."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lmc_ray.bench.peak import wait
from lmc_ray.models import MLP, Network, ResNet18
from lmc_ray.models.resnet import BLOCKS, STRIDES


def preloaded(images: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of images that lie on the device as floats already, epoch after epoch."""
    while True:
        for index in torch.randperm(len(labels)).to(images.device).split(batch_size):
            yield images[index], labels[index]


def loaded(images: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same from a `DataLoader` in this process, sent to the device batch by batch."""
    data = TensorDataset(images.cpu(), labels.cpu())
    loader = DataLoader(data, batch_size, shuffle=True)
    while True:
        for x, y in loader:
            yield x.to(images.device), y.to(labels.device)


def steps_per_second(
    network: Network,
    drop: float,
    batches: Iterator[tuple[Tensor, Tensor]],
    device: str,
    seconds: float,
) -> float:
    """Steps of SGD with momentum on a network like ours, after a few to warm up.

    Args:
        network: its architecture; the weights are torch's own.
        drop: dropout probability.
        batches: one a step; they never run out.
        device: where the batches are.
        seconds: how long.
    """
    plain = module(network, drop).to(device)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.8)
    done, warm, start = 0, 5, time.perf_counter()
    for images, labels in batches:
        optimiser.zero_grad()
        cross_entropy(plain(images), labels).backward()
        optimiser.step()
        done += 1
        if done == warm:
            wait(device)
            start = time.perf_counter()
        elif time.perf_counter() - start > seconds:
            break
    wait(device)
    return (done - warm) / (time.perf_counter() - start)


def module(network: Network, drop: float) -> nn.Module:
    """The architecture of `network` as a torch module.

    Raises:
        ValueError: there is none for it.
    """
    if isinstance(network, ResNet18):
        return _ResNet(network)
    if not isinstance(network, MLP):
        raise ValueError(f"no plain loop for {network.name}")
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(network.depth):
        layers.append(nn.Linear(network.widths[i], network.widths[i + 1]))
        if i < network.depth - 1:
            layers += [nn.ReLU(), nn.Dropout(drop)]
    return nn.Sequential(*layers)


class _Block(nn.Module):
    def __init__(self, before: int, wide: int, stride: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(
            nn.Conv2d(before, wide, 3, stride, 1, bias=False),
            _norm(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
            _norm(wide),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != wide:
            conv = nn.Conv2d(before, wide, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, _norm(wide, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        return (self.inside(x) + self.shortcut(x)).relu()


class _ResNet(nn.Sequential):
    def __init__(self, network: ResNet18) -> None:
        shapes, wide = network.layout.shapes, network.width
        layers: list[nn.Module] = [
            nn.Conv2d(shapes["stem"][1], wide, 3, 1, 1, bias=False),
            _norm(wide),
            nn.ReLU(),
        ]
        before = wide
        for stage, stride in enumerate(STRIDES):
            for block in range(BLOCKS):
                now = wide * 2**stage
                layers.append(_Block(before, now, stride if block == 0 else 1))
                before = now
        head = nn.Linear(before, shapes["head.weight"][0])
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def _norm(width: int, *, affine: bool = True) -> nn.Module:
    return nn.BatchNorm2d(width, affine=affine, track_running_stats=False)
