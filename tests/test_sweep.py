"""One whole sweep with Ray, small; all that kills or takes long is in test_sweep_soak.py."""

import time
from pathlib import Path

from ray_support import SWEEPS, TABLES, content, files, whole


def test_a_smoke_sweep_and_the_same_command_again(tmp_path: Path) -> None:
    root, script = tmp_path / "results", SWEEPS / "mcsgd.py"
    begin = time.monotonic()
    first = whole(root, "--smoke", script=script)
    seconds = time.monotonic() - begin
    print(f"\n--smoke took {seconds:.1f} s")
    assert seconds < 240, "30 s on a machine with nothing else to do"
    found = content(root)
    assert all(found[table] for table in TABLES), "a table is empty"
    assert {row["status"] for row in found["runs"]} <= {"finished", "pruned"}
    methods = {row["method"] for row in found["runs"] if row["purpose"] == "confirm"}
    assert methods == {"mcsgd", "stable-sgd", "multitask", "naive-sgd"}
    for title in ("MC-SGD", "Stable SGD", "multitask", "naive SGD"):
        assert f"\n{title}  " in first.tables
    assert f"Results:     {root}" in first.out
    assert f"lmc-ray table {root} --what barriers --sweep " in first.out

    before = files(root)
    again = whole(root, "--smoke", script=script)
    assert again.tables == first.tables
    assert files(root) == before, "nothing had to run"
