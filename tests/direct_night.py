"""The nightly script with a loop in this process in place of Ray: `direct_night.py SCRIPT OPTIONS`.

Everything else is real: the training, the ledger, the verdict and the exit status.
"""

import runpy
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from lmc_ray.store import Store
from lmc_ray.store.presence import plant_flag
from lmc_ray.sweep import nightly
from lmc_ray.sweep.cells import Pack
from lmc_ray.sweep.cluster import Resources
from lmc_ray.sweep.night import NightRun
from lmc_ray.sweep.trainable import Workplace, pack_rows, training_of


def train(
    studies: Sequence[NightRun], benchmarks: Any, store: Store, workplace: Workplace, *_: Any
) -> bool:
    """In place of `run_sweep`."""
    (benchmark,) = benchmarks
    plant_flag(store.root)
    for study in studies:
        while (block := study.next()) is not None:
            pack, started_at = Pack((block,)), datetime.now(UTC)
            training = training_of(pack, benchmark)
            while not training.finished:
                training.step()
            rows = pack_rows(pack, training, started_at)
            store.commit(workplace.sweep, uuid.uuid4().hex, rows)
    return True


if __name__ == "__main__":
    torch.set_num_threads(1)
    nightly.connect = lambda: Resources(1, 0.0, 1)
    nightly.run_sweep = train
    script = sys.argv.pop(1)
    sys.argv[0] = script
    runpy.run_path(script, run_name="__main__")
