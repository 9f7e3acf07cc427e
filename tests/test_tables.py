import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from results import barrier, run, trial

from lmc_ray import paper
from lmc_ray.errors import UserError
from lmc_ray.store import Store
from lmc_ray.tables import (
    Sheet,
    accuracy_rows,
    accuracy_sheets,
    barriers_rows,
    barriers_sheets,
    compare,
    compare_sheets,
    overview_sheets,
    pending,
    render,
)
from lmc_ray.tables.sheet import short


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three seeds of three methods on two tasks, and search cells that must not count.

    Accuracies: Stable SGD 50, 60, 70 %; MC-SGD 80, 82, 90 %; multitask 91, 92, 93 %.
    Rises: sequential 1→2 of Stable SGD 1, 2, 3; connected 1→2 of MC-SGD 0.1, 0.2, 0.3; sequential
    1→multitask 2, measured by MC-SGD's cells: 0.01, 0.02, 0.06.
    """
    store = Store(str(tmp_path / "results"))
    first, last = ("sequential", 1), ("sequential", 2)
    for index, seed in enumerate((101, 102, 103)):
        stable, mcsgd, multitask = f"s{seed}", f"m{seed}", f"j{seed}"
        runs = [
            run(stable, seed, method="stable-sgd", average_accuracy=(0.5, 0.6, 0.7)[index]),
            run(mcsgd, seed, average_accuracy=(0.8, 0.82, 0.9)[index], memory_per_class=2),
            run(multitask, seed, method="multitask", average_accuracy=(0.91, 0.92, 0.93)[index]),
        ]
        for row in runs:
            row |= {"gradient_evaluations": 1_000 + index, "examples_seen": 64_000}
            row["forgetting"] = None if row["method"] == "multitask" else (0.1, 0.2, 0.3)[index]
        barriers = [
            barrier(stable, first, last, loss_rise=1.0 + index, error_rise=0.5, connected=False),
            # MC-SGD's own sequential line is not what its row of the table shows.
            barrier(mcsgd, first, last, loss_rise=9.0),
            barrier(mcsgd, first, ("multitask", 2), loss_rise=(0.01, 0.02, 0.06)[index]),
            barrier(
                mcsgd,
                ("connected", 1),
                ("connected", 2),
                loss_rise=0.1 * (index + 1),
                error_rise=0.01 * index,
                loss_barrier=0.2,
                error_barrier=0.0,
                connected=index < 2,
            ),
            barrier(mcsgd, last, ("multitask", 2), eval_task=2, loss_rise=7.0),
        ]
        store.commit("first", f"attempt-{seed}", {"runs": runs, "barriers": barriers})
    search = run("x", 1, purpose="search", split="validation", average_accuracy=0.01)
    store.commit("first", "search", {"runs": [search]})
    return store


def test_accuracy_by_hand(store: Store):
    with store.database() as database:
        ((stable, mcsgd, multitask),) = accuracy_rows(database)
    assert [row.group.method for row in (stable, mcsgd, multitask)] == [
        "stable-sgd",
        "mcsgd",
        "multitask",
    ]
    assert stable.accuracy
    assert (stable.accuracy.count, stable.accuracy.mean) == (3, pytest.approx(0.6))
    assert stable.accuracy.std == pytest.approx(0.1)
    assert mcsgd.accuracy
    assert mcsgd.accuracy.mean == pytest.approx(0.84)
    assert mcsgd.accuracy.std == pytest.approx(math.sqrt(0.0028))
    assert mcsgd.forgetting
    assert mcsgd.forgetting.mean == pytest.approx(0.2)
    assert multitask.forgetting is None
    assert (stable.memory_per_class, mcsgd.memory_per_class) == (None, 2)
    assert (stable.gradient_evaluations, stable.examples_seen) == (1001, 64_000)


def test_rise_is_that_of_each_methods_own_line(store: Store):
    with store.database() as database:
        ((stable, mcsgd, multitask),) = accuracy_rows(database)
    assert stable.rise
    assert mcsgd.rise
    assert multitask.rise
    assert (stable.rise.mean, stable.rise.std) == pytest.approx((2.0, 1.0))
    assert (mcsgd.rise.mean, mcsgd.rise.std) == pytest.approx((0.2, 0.1))
    assert multitask.rise.mean == pytest.approx(0.03)
    assert multitask.rise.std == pytest.approx(math.sqrt(0.0007))


def test_a_rise_of_fewer_seeds_says_so(store: Store):
    with store.database() as database:
        assert "rise over" not in render(accuracy_sheets(database))
    more = run("t104", 104, method="multitask", average_accuracy=0.9)
    store.commit("first", "more", {"runs": [more]})
    with store.database() as database:
        assert "multitask: rise over 3 of 4 seeds" in render(accuracy_sheets(database))


def test_the_rise_is_on_task_1_alone(store: Store):
    line = ("connected", 1), ("connected", 2)
    barriers = [barrier("m104", *line, loss_rise=0.2)]
    barriers += [barrier("m104", *line, eval_task=2, loss_rise=50.0)]
    store.commit("first", "late", {"runs": [run("m104", 104)], "barriers": barriers})
    with store.database() as database:
        rises = [row.rise for rows in accuracy_rows(database) for row in rows]
    assert max(rise.mean for rise in rises if rise) == pytest.approx(2.0)


def test_multitask_has_the_trio_of_its_own_seeds_only(store: Store):
    line = barrier("m104", ("sequential", 1), ("multitask", 2), loss_rise=100.0)
    store.commit("first", "late", {"runs": [run("m104", 104)], "barriers": [line]})
    other = run("j104", 104, method="multitask", average_accuracy=0.9)
    store.commit("second", "other", {"runs": [other]})
    with store.database() as database:
        first, second = accuracy_rows(database)
    assert first[-1].rise
    assert first[-1].rise.count == 3
    assert [row.rise for row in second] == [None]


def test_the_rise_of_multitask_counts_a_seed_once_in_however_many_trios(store: Store):
    rises = {101: 0.03, 102: 0.04, 103: 0.08}
    runs = [run(f"n{seed}", seed, average_accuracy=0.9, memory_per_class=10) for seed in rises]
    lines = [
        barrier(f"n{seed}", ("sequential", 1), ("multitask", 2), loss_rise=rise)
        for seed, rise in rises.items()
    ]
    store.commit("first", "more", {"runs": runs, "barriers": lines})
    with store.database() as database:
        ((*_, multitask),) = accuracy_rows(database)
    assert multitask.rise
    assert (multitask.rise.count, multitask.rise.mean) == (3, pytest.approx(0.04))
    assert multitask.rise.std == pytest.approx(math.sqrt(0.0007))


def test_text(store: Store):
    with store.database() as database:
        text = render(accuracy_sheets(database))
    lines = text.splitlines()
    assert lines[0] == "rotated-digits, 2 tasks, test split, sweep first"
    cells = [
        line.split("  ") for line in lines if line.startswith(("Stable", "MC-SGD", "multitask"))
    ]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in cells]
    assert rows[:3] == [
        ["Stable SGD", "60.0 ± 10.00", "20.0 ± 10.0", "2.00 ± 1.00", "3", "n/a", "1.00k", "64.0k"],
        ["MC-SGD", "84.0 ± 5.29", "20.0 ± 10.0", "0.20 ± 0.10", "3", "2", "1.00k", "64.0k"],
        ["multitask", "92.0 ± 1.00", "n/a", "0.03 ± 0.03", "3", "n/a", "1.00k", "64.0k"],
    ]
    assert "measured in the MC-SGD cell of the same seed" in text
    assert "paper" not in text
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in text


def test_widest_table_fits_a_terminal(tmp_path: Path):
    store = Store(str(tmp_path))
    settings = {"benchmark": "rotated-mnist", "tasks": 20, "angle": 9.0}
    settings |= {"network": "mlp-256-256", "epochs": 1}
    runs, barriers = [], []
    for method in ("naive-sgd", "stable-sgd", "mcsgd", "multitask"):
        for seed in range(5):
            cell = f"{method}-{seed}"
            row = run(cell, seed, method=method, **settings)
            row |= {"average_accuracy": 0.5 + seed / 10, "forgetting": 0.3 + seed / 10}
            row |= {"gradient_evaluations": 123_456_789, "examples_seen": 987_654_321}
            runs.append(row | {"memory_per_class": 1})
            for kind in ("sequential", "connected"):
                measures = dict.fromkeys(("error_rise", "error_barrier"), 0.1 + seed / 7)
                measures |= dict.fromkeys(("loss_rise", "loss_barrier"), 10.0 + seed)
                barriers.append(barrier(cell, (kind, 1), (kind, 20), **measures))
    store.commit("s", "a", {"runs": runs, "barriers": barriers})
    with store.database() as database:
        accuracy, paths = accuracy_sheets(database), barriers_sheets(database)
    for sheets in (accuracy, paths):
        assert max(len(line) for line in render(sheets).splitlines()) <= 100
    text = render(accuracy)
    assert "82.3 ± 0.68" in text
    assert "8 ± 1" in text
    assert "arXiv:2010.04495" in text


def test_diverged_seeds_are_counted_and_in_no_mean(store: Store):
    lost = run("s104", 104, method="stable-sgd", status="diverged", average_accuracy=0.1)
    store.commit("first", "lost", {"runs": [lost]})
    with store.database() as database:
        ((stable, _, _),) = accuracy_rows(database)
        text = render(accuracy_sheets(database))
    assert stable.diverged == 1
    assert stable.accuracy
    assert stable.accuracy.mean == pytest.approx(0.6)
    assert "Stable SGD: 1 of 4 seeds diverged" in text


def test_only_diverged_seeds(tmp_path: Path):
    store = Store(str(tmp_path))
    store.commit("s", "a", {"runs": [run("c", status="diverged")]})
    with store.database() as database:
        ((row,),) = accuracy_rows(database)
        text = render(accuracy_sheets(database))
    assert row.accuracy is None
    assert "n/a" in text


def test_several_configurations_of_one_method(store: Store):
    for seed in (101, 102):
        more = run(f"n{seed}", seed, average_accuracy=0.99, memory_per_class=10, dropout=0.1)
        store.commit("first", f"more-{seed}", {"runs": [more]})
    with store.database() as database:
        (rows,) = accuracy_rows(database)
        text = render(accuracy_sheets(database))
    assert [row.group.label for row in rows] == ["Stable SGD", "MC-SGD 1", "MC-SGD 2", "multitask"]
    assert [len(row.group.finished) for row in rows] == [3, 3, 2, 3]
    assert "MC-SGD 2: dropout 0.1, memory_per_class 10" in text


def test_studies_of_one_method_go_by_their_labels(store: Store):
    for seed in (101, 102):
        for label, samples, accuracy in (("samples-10", 10, 0.7), ("samples-9", 9, 0.9)):
            more = {"average_accuracy": accuracy, "memory_per_class": 2}
            more |= {"line_samples": samples, "study": label, "config": label}
            cell = run(f"{label}-{seed}", seed, **more)
            store.commit("first", f"{label}-{seed}", {"runs": [cell]})
    with store.database() as database:
        (rows,) = accuracy_rows(database)
        (fewer,) = compare(database, "samples-9", ["samples-10"]).comparisons
        (own,) = compare(database, "mcsgd", ["samples-9"]).comparisons
        text = render(accuracy_sheets(database))
        studies = database.sql("SELECT study FROM method_summary WHERE method = 'mcsgd'").fetchall()
    assert [row.group.label for row in rows] == [
        "Stable SGD",
        "MC-SGD",
        "MC-SGD (samples-9)",
        "MC-SGD (samples-10)",
        "multitask",
    ]
    assert "MC-SGD (samples-9): line_samples 9" in text
    assert fewer.paired.difference.mean == pytest.approx(0.2)
    assert own.method.name == "mcsgd", "a study of that very name comes before all of the method"
    assert {name for (name,) in studies} == {None, "samples-9", "samples-10"}


def test_a_name_means_the_same_in_every_sweep(tmp_path: Path, lmc):
    """Where a study bears it, it does not mean another sweep's labelled ones."""
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", SIX)
    rotated_mnist(store, "er", [each - 0.01 * seed for seed, each in enumerate(SIX, 1)])
    both = [("mcsgd", "bad", 0.5), ("er", None, 0.8)]
    cells = [
        run(f"{method}{seed}", seed, method=method, study=study, average_accuracy=accuracy + place)
        for method, study, accuracy in both
        for seed, place in enumerate(SIX)
    ]
    store.commit("another", "cells", {"runs": cells})
    ask = ("compare", str(tmp_path), "--baseline", "er", "--method")
    status, out, err = lmc(*ask, "mcsgd")
    assert (status, err, "bad" in out) == (0, "", False)
    assert lmc(*ask, "bad")[0] == 3


def test_another_initialisation_is_another_configuration(tmp_path: Path):
    """Seeds stored before there was a choice had the usual one."""
    store, known = Store(str(tmp_path)), {"learning_rate": 0.1, "connect_learning_rate": 0.1}
    for seed, columns in enumerate(({}, {"initialisation": 0, "replay_batch_size": 0})):
        usual = run(f"a{seed}", seed, average_accuracy=0.5, **known, **columns)
        other = run(f"b{seed}", seed, average_accuracy=0.7, study="w0", **known, initialisation=1)
        store.commit("s", f"a{seed}", {"runs": [usual, other]})
    with store.database() as database:
        (rows,) = accuracy_rows(database)
        (found,) = compare(database, "w0", ["mcsgd"]).comparisons
    assert [(row.group.label, len(row.group.runs)) for row in rows] == [
        ("MC-SGD", 2),
        ("MC-SGD (w0)", 2),
    ]
    assert found.paired.difference.count == 2


def test_replay_that_was_stored_before_there_was_a_choice_was_mixed(tmp_path: Path):
    store, known = Store(str(tmp_path)), {"method": "er", "replay_memory": "ring"}
    for seed, columns in enumerate(({}, {"replay_batches": "mixed"})):
        rows = [run(f"a{seed}", seed, average_accuracy=0.5, **known, **columns)]
        store.commit("s", f"a{seed}", {"runs": rows})
    with store.database() as database:
        ((row,),) = accuracy_rows(database)
        assert database.sql("SELECT DISTINCT replay_batches FROM runs").fetchall() == [("mixed",)]
    assert len(row.group.runs) == 2


def test_each_sweep_has_its_own_table(store: Store):
    store.commit("second", "x", {"runs": [run("m101", 101, average_accuracy=0.3)]})
    with store.database() as database:
        titles = [sheet.title for sheet in accuracy_sheets(database)]
    assert [title.rsplit(maxsplit=1)[1] for title in titles] == ["first", "second"]
    with store.database("second") as database:
        ((row,),) = accuracy_rows(database)
    assert row.accuracy
    assert (row.accuracy.mean, row.accuracy.std) == (0.3, None)


def test_all_benchmarks_of_a_sweep_in_one_table(store: Store):
    more = [
        run("p1", 101, benchmark="permuted-digits", average_accuracy=0.75, forgetting=0.125),
        run("p2", 101, benchmark="permuted-digits", method="ewc", average_accuracy=0.5),
    ]
    store.commit("first", "permuted", {"runs": more})
    store.commit("second", "x", {"runs": [run("m101", 101, average_accuracy=0.3)]})
    with store.database() as database:
        (sheet,) = overview_sheets(database)
    assert sheet.title == "all benchmarks, test split, sweep first"
    assert sheet.columns == ["method", "permuted-digits\n2 tasks", "rotated-digits\n2 tasks"]
    assert sheet.rows == [
        ["EWC", "50.0", "n/a"],
        ["Stable SGD", "n/a", "60.0 ± 10.00 / 20.0 ± 10.0"],
        ["MC-SGD", "75.0 / 12.5", "84.0 ± 5.29 / 20.0 ± 10.0"],
        ["multitask", "n/a", "92.0 ± 1.00"],
    ]


def test_the_number_of_a_configuration_is_explained_where_benchmarks_stand_together(
    tmp_path: Path,
):
    """Each benchmark counts its own: ER 2 may be another memory in the next column."""
    store = Store(str(tmp_path))
    kept = {"rotated-digits": (1, 2, 5), "permuted-digits": (5, 9)}
    runs = [
        run(f"{benchmark}-{memory}", 1, method="er", benchmark=benchmark, memory_per_class=memory)
        for benchmark, memories in kept.items()
        for memory in memories
    ]
    store.commit("front", "all", {"runs": runs})
    with store.database() as database:
        (sheet,) = overview_sheets(database)
    assert "permuted-digits: ER 1: memory_per_class 5" in sheet.notes
    assert "rotated-digits: ER 3: memory_per_class 5" in sheet.notes


def test_two_networks_are_two_tables(tmp_path: Path):
    """Methods are told apart by what they do, not by the network that one of them was given."""
    store = Store(str(tmp_path))
    networks = {"er": "resnet18-20", "stable-sgd": "stable-resnet-20", "ewc": "stable-resnet-20"}
    runs = [
        run(f"{method}-{seed}", seed, method=method, network=network, average_accuracy=0.5)
        for method, network in networks.items()
        for seed in range(6)
    ]
    store.commit("s", "all", {"runs": runs})
    with store.database() as database:
        sheets = accuracy_sheets(database)
        assert [[row.group.name for row in rows] for rows in accuracy_rows(database)] == [
            ["er"],
            ["ewc", "stable-sgd"],
        ]
        with pytest.raises(UserError, match=r"stable-sgd has no confirmed seed on .*resnet18-20"):
            compare(database, "er", ["stable-sgd"])
    assert [sheet.title.split(", ")[2] for sheet in sheets] == ["resnet18-20", "stable-resnet-20"]


def test_barriers_by_hand(store: Store):
    with store.database() as database:
        stable, mcsgd = barriers_rows(database)
        text = render(barriers_sheets(database))
    assert [row.path for row in stable] == ["sequential 1 → sequential 2"]
    assert (stable[0].connected, stable[0].seeds) == (0, 3)
    connected = next(row for row in mcsgd if row.path.startswith("connected"))
    assert (connected.connected, connected.seeds, connected.eval_task) == (2, 3, 1)
    assert connected.measures["loss_rise"].mean == pytest.approx(0.2)
    assert connected.measures["error_rise"].mean == pytest.approx(0.01)
    assert connected.measures["loss_barrier"].mean == pytest.approx(0.2)
    assert "loss_barrier" not in stable[0].measures
    (line,) = [line for line in text.splitlines() if line.startswith("connected 1")]
    assert [cell.strip() for cell in line.split("  ") if cell.strip()] == [
        "connected 1 → connected 2",
        "1",
        "0.20 ± 0.10",
        "1.0 ± 1.0",
        "0.20 ± 0.00",
        "0.0 ± 0.0",
        "2 of 3",
    ]


def test_a_control_is_told_from_the_path_itself(tmp_path: Path):
    store = Store(str(tmp_path))
    ends = ("sequential", 1), ("multitask", 2)
    lines = [
        barrier("c", *ends, loss_rise=0.1),
        barrier("c", *ends, control="other-init", path_id="control", loss_rise=5.0),
    ]
    store.commit("s", "a", {"runs": [run("c")], "barriers": lines})
    with store.database() as database:
        (rows,) = barriers_rows(database)
    assert {row.path: row.measures["loss_rise"].mean for row in rows} == {
        "sequential 1 → multitask 2": 0.1,
        "sequential 1 → multitask 2 (other-init)": 5.0,
    }


def test_barriers_say_over_which_seeds_they_are(tmp_path: Path):
    ends = ("sequential", 1), ("multitask", 2)
    lines = [barrier("c", *ends), barrier("d", *ends)]
    aligned = barrier("c", *ends, control="aligned", path_id="c-d")

    def text(name: str, *measured: Any) -> str:
        store = Store(str(tmp_path / name))
        rows = {"runs": [run("c", 0), run("d", 1)], "barriers": list(measured)}
        store.commit("s", "a", rows)
        with store.database() as database:
            return render(barriers_sheets(database))

    fewer, neighbours = "lines over fewer seeds than were confirmed", "neighbouring ones share"
    assert fewer in text("one", lines[0])
    assert fewer not in (both := text("both", *lines))
    assert neighbours not in both
    assert fewer not in (pair := text("pair", *lines, aligned))
    assert neighbours in pair


def test_a_sweep_without_confirmed_cells_says_how_far_it_is(tmp_path: Path):
    store = Store(str(tmp_path))
    store.commit("s", "a", {"runs": [run("c", purpose="search")]})
    store.commit("s", "b", {"trials": [trial(0, value=0.5), trial(1, value=0.71)]})
    store.commit("t", "c", {"trials": [trial(0, state="pruned", value=0.9)]})
    with store.database() as database:
        assert accuracy_sheets(database) == []
        assert barriers_sheets(database) == []
        assert pending(database) == [
            "sweep s: no confirmed seed yet (cells 1, trials 2, best on validation 71.0 %)",
            "sweep t: no confirmed seed yet (cells 0, trials 1)",
        ]
    more = [trial(0, benchmark="permuted-digits", value=0.9)]
    store.commit("s", "more", {"trials": more})
    with store.database("s") as database:
        (line,) = pending(database)
    assert line == "sweep s: no confirmed seed yet (cells 1, trials 3)"


def test_markdown():
    sheet = Sheet("Title", ("method", "a\nb"), [("x|y", "1 ± 2")], ["a note"])
    assert render([sheet], "markdown") == (
        "**Title**\n\n| method | a b |\n| --- | ---: |\n| x\\|y | 1 ± 2 |\n\n- a note\n"
    )


def test_latex():
    sheet = Sheet("50 % of a_b", ("path", "a\n%"), [("a → b & c", "1 ± 2")], ["a note"])
    text = render([sheet], "latex")
    assert "\\caption{50 \\% of a\\_b}" in text
    assert "\\begin{tabular}{lr}" in text
    assert "path & a \\% \\\\" in text
    assert "a $\\to$ b \\& c & 1 $\\pm$ 2 \\\\" in text
    assert text.endswith("% a note\n")


def test_unknown_form():
    with pytest.raises(UserError, match="did you mean 'latex'"):
        render([], "latx")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "n/a"),
        (0, "0"),
        (999, "999"),
        (1000, "1.00k"),
        (9_996, "10.0k"),
        (12_345, "12.3k"),
        (999_499, "999k"),
        (999_600, "1.00M"),
        (23_456_789, "23.5M"),
        (1.5e9, "1.50G"),
    ],
)
def test_short_numbers(number: float | None, text: str):
    assert short(number) == text


def rotated_mnist(
    store: Store, method: str, accuracies: list[float], memory: int | None = None
) -> None:
    place = {"benchmark": "rotated-mnist", "tasks": 20, "angle": 9.0, "method": method}
    place |= {"network": "mlp-256-256", "epochs": 1}
    name = f"{method}-{memory}"
    rows = [
        run(f"{name}-{seed}", seed, average_accuracy=accuracy, forgetting=0.1, **place)
        | {"memory_per_class": memory}
        for seed, accuracy in enumerate(accuracies)
    ]
    store.commit("paper", name, {"runs": rows})


SIX = [0.83, 0.82, 0.835, 0.81, 0.84, 0.825]


def test_beside_the_paper(tmp_path: Path):
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", SIX)
    rotated_mnist(store, "ema", SIX)  # the paper has none
    with store.database() as database:
        main, beside = accuracy_sheets(database)
    assert [row[0] for row in main.rows] == ["MC-SGD", "EMA"]
    ((name, ours, theirs, difference, interval, p, forgetting, theirs_too),) = beside.rows
    assert (name, ours, theirs) == ("MC-SGD", "82.7 ± 1.08", "82.3 ± 0.68")
    assert (difference, forgetting, theirs_too) == ("+0.4", "10.0 ± 0.0", "8 ± 1")
    low, high = (float(end) for end in interval.split(" to "))
    assert low < 0.4 < high
    assert 0.3 < float(p) < 0.9
    assert beside.title == (
        "beside the paper: rotated-mnist, 20 tasks of 9 degrees, mlp-256-256, test split,"
        " sweep paper"
    )
    assert max(map(len, render([beside]).splitlines())) <= 100


def test_compare(tmp_path: Path):
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", SIX)
    rotated_mnist(store, "stable-sgd", [each * 0.9 for each in SIX[:5]])
    rotated_mnist(store, "er", [each - 0.01 * (1 + seed % 2) for seed, each in enumerate(SIX)])
    with store.database() as database:
        stable, er = compare(database, "mcsgd", ["stable-sgd", "er"]).comparisons
        (backwards,) = compare(database, "er", ["mcsgd"]).comparisons
        (few,) = compare(database, "stable-sgd", ["mcsgd"]).comparisons
        (both,) = compare(database, "mcsgd", ["er"], benchmark="rotated-mnist").comparisons
        text = render(compare_sheets([stable, er]))
        with pytest.raises(UserError, match="did you mean 'mcsgd'"):
            compare(database, "mcsdg", ["er"])
        with pytest.raises(UserError, match="did you mean 'rotated-mnist'"):
            compare(database, "mcsgd", ["er"], benchmark="rotated-mnits")
        with pytest.raises(UserError, match="mcsgd has one configuration only"):
            compare(database, "mcsgd", ["mcsgd"])
    assert er.paired.difference.mean == pytest.approx(0.015)
    assert er.p == er.paired.p == both.p == 2 / 2**6
    assert (er.verdict, er.worse) == ("better", False)
    assert (backwards.verdict, backwards.worse) == ("worse", True)
    assert stable.paired.difference.count == 5
    assert (stable.p, stable.verdict) == (None, "too few seeds for a test")
    assert few.worse
    assert "MC-SGD - ER" in text
    assert "+1.50" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_seed_that_diverged_is_told_beside_a_comparison(tmp_path: Path):
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", SIX)
    rotated_mnist(store, "er", SIX[1:])
    place = {"benchmark": "rotated-mnist", "tasks": 20, "angle": 9.0, "method": "er"}
    place |= {"network": "mlp-256-256", "epochs": 1}
    store.commit("paper", "lost", {"runs": [run("lost", 9, status="diverged", **place)]})
    with store.database() as database:
        text = render(compare_sheets(compare(database, "mcsgd", ["er"]).comparisons))
    assert "ER: 1 of 6 seeds diverged; in none of the differences" in text


def test_what_cannot_be_compared_is_told(tmp_path: Path, lmc):
    """A method that diverged where its baseline did not must not look as if it held."""
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", SIX)
    rotated_mnist(store, "er", [each - 0.01 * seed for seed, each in enumerate(SIX, 1)])
    elsewhere = {"benchmark": "permuted-mnist", "tasks": 20, "network": "mlp-256-256", "epochs": 1}
    runs = [
        run(f"{method}-{seed}", seed, method=method, status=status, **elsewhere)
        for method, status in (("mcsgd", "diverged"), ("er", "finished"))
        for seed in range(6)
    ]
    store.commit("paper", "permuted", {"runs": runs})
    store.commit("other", "ewc", {"runs": [run("ewc-0", 0, method="ewc", **elsewhere)]})
    ask = ("compare", str(tmp_path), "--method", "mcsgd", "--baseline", "er")
    diverged = (
        "not compared: MC-SGD and ER have no finished seed in common on permuted-mnist, 20 tasks,"
        " mlp-256-256, test split, sweep paper: 6 of 6 seeds of MC-SGD diverged"
    )
    status, out, err = lmc(*ask)
    assert (status, "better" in out) == (2, True)
    assert diverged in err
    status, out, err = lmc(*ask, "--benchmark", "permuted-mnist")
    assert (status, out) == (2, "")
    assert diverged.removeprefix("not compared: ") in err
    status, _, err = lmc(*ask, "--benchmark", "rotated-mnist")
    assert (status, err) == (0, "")
    status, out, err = lmc(*ask, "--baseline", "ewc")
    assert (status, "better" in out) == (2, True)
    assert "mcsgd and ewc are in no sweep together" in err


def test_a_benchmark_that_lacks_the_baseline_is_told(tmp_path: Path, lmc):
    """Half of what was asked for is not all of it."""
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", SIX)
    rotated_mnist(store, "er", [each - 0.01 * seed for seed, each in enumerate(SIX, 1)])
    more = {"benchmark": "permuted-digits", "average_accuracy": 0.5}
    store.commit("paper", "more", {"runs": [run(f"p{seed}", seed, **more) for seed in range(6)]})
    ask = ("compare", str(tmp_path), "--method", "mcsgd", "--baseline", "er")
    status, out, err = lmc(*ask)
    assert (status, "better" in out) == (2, True)
    assert "not compared: er has no confirmed seed on permuted-digits, 2 tasks" in err
    assert lmc(*ask, "--benchmark", "rotated-mnist")[::2] == (0, "")
    status, out, err = lmc("compare", str(tmp_path), "--method", "er", "--baseline", "mcsgd")
    assert (status, err.count("\n")) == (3, 1)
    assert err.startswith("lmc-ray: not compared: er has no confirmed seed on permuted-digits, 2 t")


def test_a_method_that_diverges_now_and_then_does_not_hold(tmp_path: Path, lmc):
    """The seeds that came to their end say nothing of the others, in no table."""
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", SIX)
    rotated_mnist(store, "er", [each - 0.1 for each in SIX])
    place = {"benchmark": "rotated-mnist", "tasks": 20, "angle": 9.0}
    place |= {"network": "mlp-256-256", "epochs": 1}
    lost = [run(f"l{seed}", seed, status="diverged", **place) for seed in (6, 7)]
    more = [run(f"e{seed}", seed, method="er", average_accuracy=0.7, **place) for seed in (6, 7)]
    permuted = run("p", benchmark="permuted-mnist", average_accuracy=0.5)
    store.commit("paper", "more", {"runs": [*lost, *more, permuted]})
    status, out, err = lmc("compare", str(tmp_path), "--method", "mcsgd", "--baseline", "er")
    assert (status, "better" in out) == (2, True)
    lacking, lost_seeds = err.splitlines()
    assert lacking.startswith("lmc-ray: not compared: er has no confirmed seed on permuted-mnist")
    assert lost_seeds.startswith(
        "lmc-ray: MC-SGD diverged on 2 of the seeds that ER finished, which no"
    )
    status, out, err = lmc("compare", str(tmp_path), "--method", "er", "--baseline", "mcsgd")
    assert (status, err.count("\n")) == (3, 1), "it is the baseline's loss"
    assert err.startswith("lmc-ray: not compared: er has no confirmed seed on permuted-mnist")
    with store.database() as database:
        sheets = [*accuracy_sheets(database), *overview_sheets(database)]
    told = [sheet.title for sheet in sheets if "2 of 8 seeds diverged" in " ".join(sheet.notes)]
    assert len(told) == 3, told


def test_points_of_a_front_are_compared_once(tmp_path: Path):
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", SIX, 1)
    rotated_mnist(store, "mcsgd", SIX[::-1], 3)
    with store.database() as database:
        (found,) = compare(database, "mcsgd", ["mcsgd"]).comparisons
    assert [found.asked, found.tests] == [1, 1]


def test_compare_corrects_for_all_that_is_asked(tmp_path: Path):
    store = Store(str(tmp_path))
    eight = [*SIX, 0.815, 0.822]
    rotated_mnist(store, "mcsgd", eight)
    for method in ("er", "agem", "ewc"):
        wins = [each - 0.01 * seed for seed, each in enumerate(eight, 1)]
        rotated_mnist(store, method, [wins[0] + 0.02, *wins[1:]])
    with store.database() as database:
        (alone,) = compare(database, "mcsgd", ["er"]).comparisons
        three = compare(database, "mcsgd", ["er", "agem", "ewc"]).comparisons
        (twice,) = compare(database, "mcsgd", ["er", "er"]).comparisons
    assert (alone.p, alone.verdict) == (4 / 2**8, "better")
    assert [each.p for each in three] == [3 * 4 / 2**8] * 3
    assert [each.verdict for each in three] == ["better"] * 3
    assert twice == alone


def test_what_another_sweep_took_over_is_no_further_test(tmp_path: Path):
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", SIX)
    rotated_mnist(store, "er", [each - 0.01 * seed for seed, each in enumerate(SIX, 1)])
    cells = {row["cell_id"]: {} for row in store.committed("paper").values()}
    store.reuse("beside", "x", cells)
    with store.database() as database:
        both = compare(database, "mcsgd", ["er"]).comparisons
    assert [each.method.runs[0]["sweep"] for each in both] == ["beside", "paper"]
    assert [(each.p, each.verdict) for each in both] == [(2 / 2**6, "better")] * 2


def test_a_large_loss_is_shown_however_much_is_asked(tmp_path: Path):
    """Six pairs can bear one test; with more, the interval decides, as with five pairs."""
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", [each - 0.4 - 0.01 * seed for seed, each in enumerate(SIX)])
    for method in ("er", "agem"):
        rotated_mnist(store, method, SIX)
    rotated_mnist(store, "ewc", [each - 0.42 for each in SIX])
    with store.database() as database:
        found = compare(database, "mcsgd", ["er", "agem", "ewc"]).comparisons
        text = render(compare_sheets(found))
        (one,) = compare(database, "mcsgd", ["er"]).comparisons
    assert (one.verdict, one.worse) == ("worse", True)
    few = "too few seeds for so many tests"
    assert [each.verdict for each in found] == [f"worse (interval below 0; {few})"] * 2 + [few]
    assert [each.worse for each in found] == [True, True, False]
    assert "widened for the number of comparisons" in text


def test_enough_seeds_that_differ_either_way_show_no_difference(tmp_path: Path):
    store = Store(str(tmp_path))
    eight = [*SIX, 0.815, 0.822]
    apart = (0.01, 0.02, 0.03, 0.01, 0.02, -0.02, 0.01, -0.02)
    rotated_mnist(store, "mcsgd", [each + more for each, more in zip(eight, apart, strict=True)])
    rotated_mnist(store, "er", eight)
    with store.database() as database:
        (found,) = compare(database, "mcsgd", ["er"]).comparisons
    assert found.p
    assert 0.1 < found.p < 0.5
    assert (found.verdict, found.worse) == ("no difference shown", False)


def test_the_interval_of_few_seeds_is_widened_for_what_is_asked(tmp_path: Path):
    """t of 4 degrees is 2.78 for one comparison and 3.96 for three: 1.8 and 2.5 points of 2.1."""
    store = Store(str(tmp_path))
    losses = (-0.01, -0.03, -0.02, -0.005, -0.04)
    five = SIX[:5]
    rotated_mnist(store, "mcsgd", [each + loss for each, loss in zip(five, losses, strict=True)])
    for method in ("er", "agem", "ewc"):
        rotated_mnist(store, method, five)
    with store.database() as database:
        (alone,) = compare(database, "mcsgd", ["er"]).comparisons
        three = compare(database, "mcsgd", ["er", "agem", "ewc"]).comparisons
    assert alone.verdict == "worse (interval below 0; too few seeds for a test)"
    assert [each.verdict for each in three] == ["too few seeds for a test"] * 3


def test_equal_differences_of_few_seeds_show_nothing(tmp_path: Path):
    """Two seeds may well differ by the same, as accuracies are multiples of one over the images."""
    store = Store(str(tmp_path))
    rotated_mnist(store, "mcsgd", [0.7, 0.8])
    rotated_mnist(store, "er", [0.8, 0.9])
    with store.database() as database:
        (found,) = compare(database, "mcsgd", ["er"]).comparisons
        text = render(compare_sheets([found]))
    assert (found.paired.effect, found.worse) == (None, False)
    assert "-10.00" in text
    assert "interval n/a: all pairs differ by the same" in text
    assert max(map(len, text.splitlines())) <= 120


def test_methods_are_compared_at_equal_memory(tmp_path: Path):
    """Of fronts, the points of equal memory; of single configurations, with a word."""
    store = Store(str(tmp_path))
    for memory, better in ((1, 0.0), (3, 0.2)):
        rotated_mnist(store, "mcsgd", [each + better for each in SIX], memory)
        er = [each + better - 0.01 * seed for seed, each in enumerate(SIX, 1)]
        rotated_mnist(store, "er", er, memory)
    rotated_mnist(store, "agem", SIX[::-1], 7)
    rotated_mnist(store, "ewc", SIX[::-1])
    with store.database() as database:
        found = compare(database, "mcsgd", ["er", "agem", "ewc"]).comparisons
        text = render(compare_sheets(found))
    memories = [
        tuple(group.runs[0]["memory_per_class"] for group in (each.method, each.baseline))
        for each in found
    ]
    assert memories == [(1, 1), (3, 3), (1, 7), (3, 7), (1, None), (3, None)]
    assert "MC-SGD 2 and A-GEM keep 3 and 7 examples per class and task" in text
    assert "ER 1 keep" not in text


def test_nothing_is_confirmed_yet(tmp_path: Path):
    store = Store(str(tmp_path))
    search = run("x", 1, purpose="search", split="validation", average_accuracy=0.01)
    store.commit("first", "search", {"runs": [search]})
    with store.database() as database, pytest.raises(UserError, match="no seeds are confirmed"):
        compare(database, "mcsgd", ["er"])


def test_the_papers_numbers_are_for_its_own_tasks():
    own = {"benchmark": "rotated-mnist", "tasks": 20, "angle": 9.0, "method": "mcsgd"}
    own |= {"network": "mlp-256-256", "epochs": 1, "memory_per_class": 1}
    own |= {"multitask_schedule": None, "replay_batch_size": None, "fingerprint": None}
    own |= {"first_task_epochs": None, "classes_per_task": None}
    printed = paper.published(own)
    assert printed
    assert (printed.accuracy, printed.forgetting) == (82.3, 0.08)
    for other in (
        {"angle": 18.0},
        {"tasks": 10},
        {"benchmark": "rotated-digits"},
        {"network": "mlp-1000-1000"},
        {"epochs": 5},
        {"first_task_epochs": 50},
        {"memory_per_class": 2},
        {"method": "ema"},
        {"method": "multitask", "memory_per_class": None, "multitask_schedule": "growing"},
        {"replay_batch_size": 10},
        {"fingerprint": "of other images, in a folder called mnist"},
    ):
        assert paper.published(own | other) is None
    assert paper.published(own | {"method": "multitask", "multitask_schedule": "joint"})
    assert paper.published(own | {"method": "er", "replay_batch_size": 10})
    permuted = {"benchmark": "permuted-mnist", "angle": None}
    assert paper.published(own | permuted | {"method": "stable-sgd", "memory_per_class": None})
    assert paper.published(own | permuted | {"benchmark": "split-cifar100"}) is None
    for network in ("resnet18-20", "stable-resnet-20"):
        split = {"benchmark": "split-cifar100", "network": network, "classes_per_task": 5}
        assert paper.published(own | split)
        assert paper.published(own | split | {"classes_per_task": 2}) is None


def test_table_needs_neither_torch_nor_ray(store: Store):
    code = (
        "import sys; from lmc_ray.cli import main\n"
        "try: main(['table', sys.argv[1]])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'ray', 'optuna'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, store.root], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "MC-SGD" in done.stdout
