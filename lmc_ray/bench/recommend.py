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


def best(speeds: Iterable[Speed]) -> Speed | None:
    """Where stack and workers are such that one cell of each method takes the least time in all.

    So no method decides for the others because its cells are short.

    Args:
        speeds: of one batch size; one of each method with a stack and workers.

    Returns:
        A speed of any method, or None if nothing was measured with all of them.
    """
    measured: dict[Choice, list[Speed]] = {}
    for speed in speeds:
        choice = Choice(speed.workload.replicas, speed.workload.workers)
        measured.setdefault(choice, []).append(speed)
    methods = {speed.workload.method for same in measured.values() for speed in same}
    shared = [same for same in measured.values() if len(same) == len(methods)]
    if not shared:
        return None
    return min(shared, key=lambda same: sum(1 / speed.cells_per_hour for speed in same))[0]


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
