"""How fast a device trains: what `lmc-ray bench` prints."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmc_ray.tables.sheet import NOT_AVAILABLE, Sheet, short

if TYPE_CHECKING:
    from lmc_ray.bench.measure import Speed

_SPEED_COLUMNS = (
    "method",
    "batch",
    "stack",
    "workers",
    "steps/s",
    "cells/h",
    "a cell\ns",
    "training\n% peak",
    "cell\n% peak",
    "bytes\n% peak",
    "× plain\nloop",
    "× with\nloader",
)


def speed_sheets(speeds: Sequence["Speed"]) -> list[Sheet]:
    """Speeds, and where the time goes; one row a workload, all of one device and benchmark."""
    first = speeds[0]
    shares = [f"{name}\n%" for name in first.phases]
    peaks = max(s.peak_flops for s in speeds), max(s.peak_bytes for s in speeds)
    where = f"{first.workload.benchmark}, {first.workload.network}, on {first.device}"
    return [
        Sheet(
            f"speed: {where}",
            _SPEED_COLUMNS,
            [
                (
                    speed.workload.method,
                    str(speed.workload.batch_size),
                    str(speed.workload.replicas),
                    str(speed.workload.workers),
                    short(speed.steps_per_second),
                    short(speed.cells_per_hour),
                    f"{speed.cell_seconds:.1f}",
                    f"{100 * speed.flops_per_second / speed.peak_flops:.0f}",
                    f"{100 * speed.cell_flops_per_second / speed.peak_flops:.0f}",
                    f"{100 * speed.bytes_per_second / speed.peak_bytes:.0f}",
                    f"{speed.plain_ratio:.2f}",
                    f"{speed.loader_ratio:.2f}",
                )
                for speed in speeds
            ],
            [
                f"peak: {peaks[0] / 1e9:,.0f} GFLOP/s (best fp32 matrix product), "
                f"{peaks[1] / 1e9:,.0f} GB/s (copy), in the same run",
                "steps: mini-batch gradients of one replica; plain loop: nn.Module and optim.SGD, "
                "one seed a worker, batches preloaded or from a DataLoader",
            ],
        ),
        Sheet(
            "where a cell's time goes, and a worker's memory beyond shared data",
            ("method", "batch", "stack", *shares, "memory\nMB", "predicted\nMB"),
            [
                (
                    speed.workload.method,
                    str(speed.workload.batch_size),
                    str(speed.workload.replicas),
                    *(f"{100 * share:.0f}" for share in speed.phases.values()),
                    _megabytes(speed.private_bytes),
                    _megabytes(speed.predicted_bytes),
                )
                for speed in speeds
            ],
            ["shares by Python's profiler, which makes many short calls look longer than they are"],
        ),
    ]


def _megabytes(size: int | None) -> str:
    return NOT_AVAILABLE if size is None else f"{size / 1e6:.0f}"
