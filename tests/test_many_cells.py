"""A root of many cells: how long compaction takes, and a table after it.

`LMC_CELLS=10000 pytest -m soak tests/test_many_cells.py -s` prints what the README tells.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from results import accuracies, run

from lmc_ray.store import Store

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

CELLS = int(os.environ.get("LMC_CELLS", "400"))
TASKS, STACK, SEEDS = 20, 2, 10
COMMAND = [sys.executable, "-c", "from lmc_ray.cli import main; main()"]


def timed(*arguments: str) -> tuple[float, str]:
    """Seconds that a command takes in a process of its own, and what it prints."""
    start = time.monotonic()
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=True)
    return time.monotonic() - start, done.stdout


def test_many_cells(tmp_path: Path) -> None:
    """Blocks of two seeds, twenty tasks each, a file a table and block as workers write them."""
    root = tmp_path / "results"
    store = Store(str(root))
    for start in range(0, CELLS, STACK):
        cells = range(start, start + STACK)
        rows = {
            "runs": [
                run(
                    f"{cell:032x}",
                    cell,
                    tasks=TASKS,
                    average_accuracy=cell / CELLS,
                    forgetting=0.1,
                    purpose="confirm" if cell < SEEDS else "search",
                    config="{" + "x" * 800 + "}",
                )
                for cell in cells
            ],
            "accuracies": [
                row for cell in cells for row in accuracies(f"{cell:032x}", TASKS, cell / CELLS)
            ],
        }
        store.commit("s", f"{start:032x}", rows)
    before, table = timed("table", str(root))
    compacting, told = timed("compact", str(root))
    after, same = timed("table", str(root))
    assert f"merged, {CELLS} cells; {CELLS // STACK * 2} → 2 files" in told
    assert same == table
    assert "MC-SGD" in table
    assert store.verify() == []
    print(
        f"\n{CELLS} cells, {CELLS // STACK * 2} files: compacted in {compacting:.1f} s;"
        f" lmc-ray table {before:.1f} s before and {after:.1f} s after"
    )
