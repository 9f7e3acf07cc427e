"""What most people would write: `nn.Module`, autograd and `optim.SGD`, one seed at a time."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lmc_ray.bench.peak import wait
from lmc_ray.models import MLP, Network, ResNet, ResNet18
from lmc_ray.models.resnet import Block


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
    if isinstance(network, ResNet):
        return _resnet(network)
    if not isinstance(network, MLP):
        raise ValueError(f"no plain loop for {network.name}")
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(network.depth):
        layers.append(nn.Linear(network.widths[i], network.widths[i + 1]))
        if i < network.depth - 1:
            layers += [nn.ReLU(), nn.Dropout(drop)]
    return nn.Sequential(*layers)


class _Block18(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        before, wide, stride = block.before, block.wide, block.stride
        self.inside = nn.Sequential(
            nn.Conv2d(before, wide, 3, stride, 1, bias=False),
            _norm(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
            _norm(wide),
        )
        self.shortcut: nn.Module = nn.Identity()
        if block.reshapes:
            conv = nn.Conv2d(before, wide, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, _norm(wide, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        return (self.inside(x) + self.shortcut(x)).relu()


class _StableBlock(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        before, wide, stride = block.before, block.wide, block.stride
        conv = nn.Conv2d(before, wide, 3, stride, 1, bias=False)
        self.inside = nn.Sequential(conv, nn.ReLU(), _norm(wide))
        self.norm = _norm(wide)
        self.shortcut: nn.Module = nn.Identity()
        if block.reshapes:
            self.shortcut = nn.Conv2d(before, wide, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm((self.inside(x) + self.shortcut(x)).relu())


def _resnet(network: ResNet) -> nn.Module:
    shapes, wide = network.layout.shapes, network.width
    stem = nn.Conv2d(shapes["stem"][1], wide, 3, 1, 1, bias=False)
    kind = _Block18 if isinstance(network, ResNet18) else _StableBlock
    classes, last = shapes["head.weight"]
    return nn.Sequential(
        *(stem, _norm(wide), nn.ReLU()),
        *(kind(block) for block in network.blocks),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)),
    )


def _norm(width: int, *, affine: bool = True) -> nn.Module:
    return nn.BatchNorm2d(width, affine=affine, track_running_stats=False)
