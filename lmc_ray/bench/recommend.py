"""The stack size and workers that `lmc-ray bench` found best on this device."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from lmc_ray.bench.measure import Speed, device_name
from lmc_ray.benchmarks import cache


@dataclass(frozen=True)
class Choice:
    """How a device is best used."""

    replicas: int
    """In a stack."""
    workers: int
    """At a time."""


def best(speeds: Iterable[Speed]) -> Speed:
    """Most cells an hour."""
    return max(speeds, key=lambda speed: speed.cells_per_hour)


def remember(speed: Speed) -> Path:
    """Note in the node's cache how this speed was reached.

    Raises:
        OSError: the cache cannot be written.
    """
    noted = _noted()
    of_network = noted.setdefault(speed.device, {}).setdefault(speed.workload.network, {})
    of_network[str(speed.workload.batch_size)] = [speed.workload.replicas, speed.workload.workers]
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(noted, indent=1, sort_keys=True))
    new.replace(file)
    return file


def recommended(network: str, batch_size: int) -> Choice | None:
    """What was noted for this device, a network and the batch size next to this one, by ratio."""
    of_network = _noted().get(device_name(), {}).get(network, {})
    if not of_network:
        return None
    nearest = min(of_network, key=lambda size: abs(log(int(size) / batch_size)))
    return Choice(*of_network[nearest])


def _file() -> Path:
    return cache.root() / "speeds.json"


def _noted() -> dict[str, Any]:
    with suppress(OSError, ValueError):  # a cache: without it nothing is recommended
        return json.loads(_file().read_text())
    return {}
