"""The report and the figures, without a browser: what they say, and that they stand alone."""

import html
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from PIL import Image
from results import barrier, cells, path, run, trial
from small_study import FINE, METHODS, SEEDS, TASKS, small_study

from lmc_ray.errors import UserError
from lmc_ray.report import palette, write_figures, write_report
from lmc_ray.report.collect import collect
from lmc_ray.report.exhibits import Curve, Exhibit, Heat, Intervals, Lines, left_out, spread_out
from lmc_ray.report.figures import save
from lmc_ray.report.importances import FEWEST_TRIALS, importance_rows, importances
from lmc_ray.report.interactive import draw
from lmc_ray.report.paths import IS_OWN, QUESTIONS
from lmc_ray.report.runs import runs
from lmc_ray.report.source import Part
from lmc_ray.statistics import Summary, from_moments, summarise
from lmc_ray.store import Store
from lmc_ray.tables.groups import METHODS as TITLES
from lmc_ray.tables.groups import Group


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return small_study(str(tmp_path_factory.mktemp("study") / "results"))


@pytest.fixture(scope="module")
def exhibits(store: Store) -> dict[str, Exhibit]:
    return {
        exhibit.name: exhibit
        for chapter in collect(store)
        for section in chapter.sections
        for exhibit in section.exhibits
    }


@pytest.fixture(scope="module")
def page(store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(store, None, file)
    assert [each.name for each in file.parent.iterdir()] == ["report.html"]
    return file.read_text(encoding="utf-8")


class Links(HTMLParser):
    """Everything that a page would load or lead to, and the text of its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.scripts = self.plots = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [str(given[name]) for name in ("src", "href", "srcset") if name in given]
        self.scripts += tag == "script" and "type" not in given
        self.plots += given.get("class") == "plot"


# The page


def test_nothing_is_loaded_from_elsewhere(page: str):
    found = Links()
    found.feed(page)
    assert all(link.startswith("#") or link == "data:," for link in found.links), found.links
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles
    assert found.scripts == 2  # plotly.js once, and the page's own


def test_every_section_is_there_and_in_the_contents(page: str):
    contents = page[page.index("<nav") : page.index("</nav>")]
    for title in (
        "What was run",
        "Accuracy: rotated-digits, 5 tasks, test split",
        "Paths: rotated-digits, 5 tasks, test split",
        "Loss planes: rotated-digits, 5 tasks, test split",
        "Curvature: rotated-digits, 5 tasks, test split",
        "Similarity: rotated-digits, 5 tasks, test split",
        "The search",
        "The nights",
    ):
        assert f"<h3>{title}</h3>" in page
        assert title in contents


def test_every_plot_has_its_data_and_its_sql(page: str, exhibits: dict[str, Exhibit]):
    found = Links()
    found.feed(page)
    drawn = [exhibit for exhibit in exhibits.values() if exhibit.panels]
    assert found.plots == len(drawn)
    data = re.findall(r'<script type="application/json" id="([^"]+)-data">(.*?)</script>', page)
    assert len(data) == len(drawn)
    for place, text in data:
        assert f'id="{place}"' in page
        assert json.loads(text)["data"]
    assert page.count("<details><summary>SQL</summary>") == len(exhibits)


def test_what_a_sweep_has_not_is_left_out(tmp_path: Path):
    store = Store(str(tmp_path / "results"))
    store.commit("first", "a", cells("c1", "c2"))
    (chapter,) = collect(store)
    assert [section.title.split(":")[0] for section in chapter.sections] == [
        "What was run",
        "Accuracy",
    ]
    store.commit("second", "b", {"trials": [trial(0, value=0.5)]})
    assert [section.title for section in collect(store, "second")[0].sections] == ["The search"]


def test_the_search_on_each_benchmark_has_a_panel(tmp_path: Path):
    store = Store(str(tmp_path / "results"))
    found = [
        trial(number, benchmark=benchmark, value=0.5)
        for benchmark in ("rotated-digits", "permuted-digits")
        for number in range(3)
    ]
    store.commit("both", "a", {"trials": found})
    store.commit("one", "a", {"trials": found[:3]})
    titles = {}
    for sweep in ("both", "one"):
        (section,) = collect(store, sweep)[0].sections
        titles[sweep] = [panel.title for panel in section.exhibits[0].panels]
    assert titles["both"] == ["MC-SGD on permuted-digits", "MC-SGD on rotated-digits"]
    assert titles["one"] == ["MC-SGD"]


def test_words_from_the_root_stay_words(tmp_path: Path):
    planted = "<script>alert(1)</script><b>$x_2$"
    store = Store(str(tmp_path / f"results{planted.replace('/', '')}"))
    rows = cells("c1", "c2")
    for row in rows["runs"]:
        row |= {"method": planted, "benchmark": planted, "device": planted}
    for row in rows["accuracies"]:
        row["minimum"] = "sequential"
    rows["trials"] = [
        trial(n, study=planted, value=n / 9, params=json.dumps({planted: n})) for n in range(6)
    ]
    store.commit("first", "a", rows)
    file = tmp_path / "report.html"
    write_report(store, None, file)
    text = file.read_text(encoding="utf-8")
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert "<b>$x" not in text
    assert html.escape(planted) in text
    assert write_figures(store, None, tmp_path / "figures")


# What it says


def test_the_sql_that_is_shown_gives_the_rows(store: Store, exhibits: dict[str, Exhibit]):
    with store.database() as database:
        for exhibit in exhibits.values():
            assert database.execute(exhibit.sql).fetchall(), exhibit.name


def test_intervals_are_those_of_statistics(store: Store, exhibits: dict[str, Exhibit]):
    panel = exhibits["summary"].panels[0]
    assert isinstance(panel, Intervals)
    assert panel.names == [TITLES[method] for method in METHODS]
    with store.database() as database:
        for method, found in zip(METHODS, panel.values, strict=True):
            sql = "SELECT average_accuracy FROM runs WHERE purpose = 'confirm' AND method = $method"
            values = [100 * row[0] for row in database.execute(sql, {"method": method}).fetchall()]
            same(found, summarise(values))


def test_the_curve_along_the_sequence(store: Store, exhibits: dict[str, Exhibit]):
    panel = exhibits["sequence"].panels[0]
    assert isinstance(panel, Lines)
    (curve,) = [curve for curve in panel.curves if curve.name == "MC-SGD"]
    assert curve.x == list(range(1, TASKS + 1))
    with store.database() as database:
        values = database.sql(
            "SELECT 100 * avg(accuracy) FROM accuracies WHERE cell_id LIKE 'mcsgd-%'"
            " AND after_task = 3 GROUP BY cell_id"
        ).fetchall()
    same(curve.y[2], summarise(value for (value,) in values))


def test_paths_are_means_over_seeds(store: Store, exhibits: dict[str, Exhibit]):
    loss, error = exhibits["paths-initialisation-MC-SGD"].panels
    assert isinstance(loss, Lines)
    assert isinstance(error, Lines)
    (curve,) = [
        c for c in loss.curves if c.name == "sequential → multitask of another initialisation"
    ]
    assert [curve.x[0], curve.x[-1], len(curve.x)] == [0, 1, 21]
    with store.database() as database:
        values = database.sql(
            "SELECT loss FROM paths WHERE control = 'other-init' AND alpha = 0.5"
        ).fetchall()
    same(curve.y[10], summarise(value for (value,) in values))
    assert {curve.name for curve in error.curves} == {curve.name for curve in loss.curves}


def test_a_path_measured_twice_is_shown_once(store: Store, exhibits: dict[str, Exhibit]):
    """By training on 21 points, and by an analysis on more: the analysis is what counts."""
    panel = exhibits["paths-first-MC-SGD"].panels[0]
    assert isinstance(panel, Lines)
    by_name = {curve.name: curve for curve in panel.curves}
    assert len(by_name) == len(panel.curves)
    curve = by_name["sequential → multitask"]
    assert len(curve.x) == FINE
    assert {each.count for each in curve.y} == {len(SEEDS)}
    with store.database() as database:
        values = database.sql(
            "SELECT loss FROM paths WHERE cell_id LIKE 'path-%' AND alpha = 1"
            " AND path_id = 'sequential:1->multitask:5'"
        ).fetchall()
    same(curve.y[-1], summarise(value for (value,) in values))
    assert len(by_name["connected → connected"].x) == 21  # which only training has measured


def test_a_curve_has_the_points_that_all_seeds_have(tmp_path: Path):
    """A seed that is analysed already has twice as many; a mean over it alone would zigzag."""
    store = Store(str(tmp_path / "results"))
    rows = cells("a", "b") | {"barriers": [], "paths": []}
    for seed, (row, points) in enumerate(zip(rows["runs"], (5, 9), strict=True)):
        row["seed"] = seed
        line = barrier(row["cell_id"], ("sequential", 1), ("sequential", 2))
        rows["barriers"].append(line)
        rows["paths"] += path(line, points)
    store.commit("first", "a", rows)
    (section,) = [s for s in collect(store)[0].sections if s.title.startswith("Paths")]
    panel = section.exhibits[0].panels[0]
    assert isinstance(panel, Lines)
    (curve,) = panel.curves
    assert curve.x == [0, 0.25, 0.5, 0.75, 1]
    assert {each.count for each in curve.y} == {2}


def test_what_an_analysis_measured_belongs_to_the_trained_configuration(page: str):
    assert "(analysis)" not in page


def test_paths_by_what_they_say(exhibits: dict[str, Exhibit]):
    found = {
        name.removeprefix("paths-").removesuffix("-MC-SGD"): [
            (panel.title, [curve.name for curve in panel.curves])
            for panel in exhibit.panels[::2]
            if isinstance(panel, Lines)
        ]
        for name, exhibit in exhibits.items()
        if name.startswith("paths-")
    }
    to_sequential, to_multitask = "sequential → sequential", "sequential → multitask"
    connected = "connected → connected"
    assert found == {
        "first": [
            ("after task 1 → after task 5, on task 1", [to_sequential, to_multitask, connected]),
            ("after task 1 → after task 2, on task 1", [to_sequential]),
        ],
        "joint": [("after task 5, on task 5", [to_multitask, f"{to_multitask} (Bézier)"])],
        "forwards": [("after task 2 → after task 5, on task 2", [connected])],
        "initialisation": [
            (
                "after task 1 → after task 5, on task 1",
                [to_multitask, f"{to_multitask} of another initialisation"],
            )
        ],
        "seeds": [("after task 1, on task 1", ["sequential, as they are", "sequential, aligned"])],
        "others": [("after task 5 → after task 1, on task 1", [to_sequential])],
    }


def test_no_path_is_lost_or_shown_under_two_questions(store: Store):
    """Of every path that could be measured: each answers one question, a method's own one too."""
    names = ("sequential", "multitask", "connected", "averaged")
    cell, rows = "mcsgd-1", []
    for control in ("same-init", "other-init", "other-seed", "aligned"):
        for start, stop in product(product(names, (1, 2, 5)), repeat=2):
            rows += [
                barrier(cell, start, stop, task, control=control, curve=curve)
                for task, curve in product((1, 2, 5), ("linear", "bezier"))
            ]
    cases = " + ".join(f"({each.which})::INT" for each in QUESTIONS.values())
    with store.database("study") as database:
        database.register("b", pa.Table.from_pylist(rows))
        counts = database.sql(
            f"SELECT {cases} AS questions, {IS_OWN} AS own, count(*) FROM b, runs AS r"
            f" WHERE r.cell_id = '{cell}' GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    assert sum(count for *_, count in counts) == len(rows)
    assert {(questions, own) for questions, own, _ in counts} == {(1, False), (1, True)}


def test_the_last_task_comes_first_and_what_is_left_out_is_said(tmp_path: Path):
    store = Store(str(tmp_path / "results"))
    rows = cells("a", "b")
    rows |= {"barriers": [], "paths": []}
    for row in rows["runs"]:
        row["tasks"] = 20
        for task in range(2, 21):
            line = barrier(row["cell_id"], ("sequential", 1), ("sequential", task))
            rows["barriers"].append(line)
            rows["paths"] += path(line, 3)
    for seed, row in enumerate(rows["runs"]):
        row["seed"] = seed
    store.commit("first", "a", rows)
    (section,) = [s for s in collect(store)[0].sections if s.title.startswith("Paths")]
    (exhibit,) = section.exhibits
    titles = [panel.title for panel in exhibit.panels[::2]]
    assert titles[0] == "after task 1 → after task 20, on task 1"
    assert titles[-1] == "after task 1 → after task 2, on task 1"
    assert exhibit.notes == ["6 of 19 pairs of panels drawn; the SQL has them all"]


def test_a_minimum_keeps_its_colour(exhibits: dict[str, Exhibit]):
    colours: dict[str, set[int]] = {}
    for name, exhibit in exhibits.items():
        for panel in exhibit.panels:
            if isinstance(panel, Lines) and (name.startswith("paths-") or name == "overlaps"):
                for curve in panel.curves:
                    (minimum,) = re.findall(
                        r"(?:→|to the|^) ?(\w+)(?: minimum| \(Bézier\)|, .*)?$", curve.name
                    ) or ["another"]
                    colours.setdefault(minimum, set()).add(curve.style.colour)
                    dashed = "Bézier" in curve.name or "aligned" in curve.name
                    assert curve.style.kind == dashed
    assert colours == {"sequential": {1}, "multitask": {2}, "connected": {0}, "another": {3}}


def test_contrasts_within_seeds(store: Store, exhibits: dict[str, Exhibit]):
    exhibit = exhibits["within-seeds-MC-SGD"]
    assert exhibit.sheet
    (panel,) = exhibit.panels
    assert isinstance(panel, Intervals)
    assert list(panel.names) == [row[0] for row in exhibit.sheet.rows]
    what = "barrier of the loss between two seeds: sequential 1, aligned - as they are"
    (shown,) = [
        value for name, value in zip(panel.names, panel.values, strict=True) if name == what
    ]
    with store.database() as database:
        differences = database.sql(
            "SELECT a.loss_barrier - b.loss_barrier FROM barriers a JOIN barriers b USING (cell_id)"
            " WHERE a.control = 'aligned' AND b.control = 'other-seed'"
            " AND a.from_seed IN (1, 3)"  # to 2 and 4: 2 to 3 and 4 to 5 share seeds with them
        ).fetchall()
    whole = summarise(value for (value,) in differences)
    assert whole.std
    assert shown.mean == pytest.approx(whole.mean / whole.std)
    assert [shown.low, shown.high] == pytest.approx(
        [end / whole.std for end in (whole.low, whole.high) if end is not None]
    )
    (row,) = [row for row in exhibit.sheet.rows if row[0] == what]
    assert row[3] == f"{whole.mean:+.3f}"
    assert "a sign-flip test needs at least 6 pairs" in exhibit.notes


def test_layers_are_names_even_where_they_are_digits():
    layers = ["0", "1", "all"]
    heat = Heat("", "layer", "", "", layers, ["pair"], np.ones((1, 3)))
    axis = draw(Exhibit("x", "", "", "", [heat])).layout.xaxis
    assert axis.type == "category"
    assert list(axis.categoryarray) == layers


def test_the_accuracy_matrix(exhibits: dict[str, Exhibit]):
    heat = exhibits["matrix"].panels[0]
    assert isinstance(heat, Heat)
    assert heat.values.shape == (TASKS, TASKS)
    assert math.isnan(heat.values[1, 0])  # task 2 before it was learned
    assert heat.values[0, -1] < heat.values[0, 0]


def test_planes_are_one_seed_s(exhibits: dict[str, Exhibit]):
    panels = exhibits["planes"].panels
    assert [panel.title for panel in panels] == ["on task 1, seed 1", "on task 5, seed 1"]
    for panel in panels:
        assert isinstance(panel, Heat)
        assert [anchor.name for anchor in panel.anchors] == [
            "sequential 1",
            "sequential 5",
            "multitask 5",
        ]
        assert not any(map(math.isnan, panel.values.flat))


def test_shares_are_sums_of_squares(store: Store, exhibits: dict[str, Exhibit]):
    panel = exhibits["shares"].panels[0]
    assert isinstance(panel, Intervals)
    with store.database() as database:
        sums = database.sql(
            "SELECT sum(overlap_sequential * overlap_sequential) FROM spectra WHERE to_task = 2"
            " GROUP BY cell_id"
        ).fetchall()
    assert panel.names[0] == "sequential 1 → sequential 2, on task 1"
    same(panel.values[0], summarise(value for (value,) in sums))


def test_similarities_by_pair_and_layer(exhibits: dict[str, Exhibit]):
    l2, cosine, cka = exhibits["similarity-MC-SGD"].panels
    assert isinstance(l2, Heat)
    assert isinstance(cka, Heat)
    assert list(l2.x) == ["layer1", "layer2", "layer10", "all"]
    assert list(cka.x) == ["layer1", "layer2", "layer10"]
    assert len(l2.y) == 8
    assert "3 seeds" in l2.words[0][0]
    assert cosine.title == "cosine of weights"


def test_the_search(exhibits: dict[str, Exhibit]):
    er, mcsgd = exhibits["history"].panels
    assert isinstance(mcsgd, Lines)
    by_name = {curve.name: curve for curve in mcsgd.curves}
    best = [each.mean for each in by_name["best so far"].y]
    assert best == sorted(best)
    assert best[-1] == max(each.mean for each in by_name["complete"].y)
    assert er.title == "ER"
    (front,) = exhibits["pareto"].panels
    assert isinstance(front, Lines)
    on_front = {curve.name: curve for curve in front.curves}["Pareto front"]
    accuracy, memory = [each.mean for each in on_front.y], list(on_front.x)
    assert accuracy == sorted(set(accuracy))
    assert memory == sorted(set(memory))
    (shares,) = exhibits["importances"].panels
    assert isinstance(shares, Intervals)
    assert shares.names[0] == "learning_rate"
    assert sum(each.mean for each in shares.values) == pytest.approx(1)


def test_importance_needs_trials_that_differ():
    rows = [
        {
            "state": "complete",
            "accuracy": n / 10,
            "params": {"a": n, "b": "x", "c": (4 * n) % 9},
        }
        for n in range(9)
    ]
    assert list(importances(rows)) == ["a", "c"]
    alone = [{**row, "params": {"a": n, "b": "x"}} for n, row in enumerate(rows)]
    assert importances(alone) == {}, "one that varies alone would have all of it, whatever it does"
    assert importances(rows[: FEWEST_TRIALS - 1]) == {}
    assert importances([{**row, "accuracy": 0.5} for row in rows]) == {}
    assert importances([{**row, "state": "pruned"} for row in rows]) == {}


def test_importances_go_into_the_store_once(tmp_path: Path):
    store = small_study(str(tmp_path))

    def new() -> list[dict[str, Any]]:
        with store.database("study") as database:
            return importance_rows(database)

    rows = new()
    of_mcsgd = {row["hyperparameter"]: row["importance"] for row in rows if row["study"] == "mcsgd"}
    assert max(of_mcsgd, key=lambda name: of_mcsgd[name]) == "learning_rate"
    assert sum(of_mcsgd.values()) == pytest.approx(1)
    store.commit("study", "importances", {"importances": rows})
    assert new() == [], "the same trials say the same"
    params = {"learning_rate": 0.1, "dropout": 0.1, "continue_from": "connected", "batch_size": 16}
    later = trial(98, params=json.dumps(params), values=[0.5])
    store.commit("study", "later", {"trials": [later]})
    assert {row["trials"] for row in new()} == {1 + rows[-1]["trials"]}


def test_nights(exhibits: dict[str, Exhibit]):
    sheet = exhibits["nights"].sheet
    assert sheet
    assert sheet.rows[0][0] == "2026-11-20"
    assert [row[-1] for row in sheet.rows if row[0] == "2026-11-19"] == ["regressed"] * 2
    changed = "has another configuration since 2026-11-15: epochs 6 instead of 5"
    assert exhibits["nights"].notes[-2:] == [
        f"{method} on rotated-digits {changed}" for method in ("MC-SGD", "Stable SGD")
    ]


def test_nights_are_drawn_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also where the method that is drawn first has missed one."""
    days = ["2026-11-20", "2026-11-21", "2026-11-22"]
    value = Summary(1, 50.0, None, None, None)
    curves = [
        Curve(name, palette.Style(place), nights, [value] * len(nights))
        for place, (name, nights) in enumerate((("one", days[::2]), ("other", days)))
    ]
    exhibit = Exhibit("nights", "Nights", "", "", [Lines("", "night", "accuracy", curves)])
    seen: list[str] = []

    def look(figure: Figure, *_: Any, **__: Any) -> None:
        figure.canvas.draw()
        seen.extend(label.get_text() for label in figure.axes[0].get_xticklabels())

    monkeypatch.setattr(Figure, "savefig", look)
    save(exhibit, tmp_path / "nights.png", "png")
    assert seen == days


def test_infinite_losses_have_a_mean_and_no_interval(tmp_path: Path):
    store = small_study(str(tmp_path / "results"))
    rows = cells("x1", "x2")
    for seed, row in enumerate(rows["runs"]):
        row |= {"seed": seed, "method": "ewc", "tasks": TASKS}
    start, stop = ("sequential", 1), ("sequential", TASKS)
    ends = {"from_minimum": start[0], "from_task": start[1]}
    ends |= {"to_minimum": stop[0], "to_task": stop[1], "path_id": "p"}
    lines = [barrier(cell, start, stop) | ends for cell in ("x1", "x2")]
    rows["barriers"] = lines
    rows["paths"] = [
        {"cell_id": cell, **ends, "curve": "linear", "control": "same-init", "split": "test"}
        | {"eval_task": 1, "alpha": alpha, "accuracy": 0.1, "loss": loss}
        for cell in ("x1", "x2")
        for alpha, loss in ((0.0, 1.0), (1.0, math.inf if cell == "x1" else 2.0))
    ]
    store.commit("study", "ewc", rows)
    chapter = collect(store, "study")[0]
    (own,) = [e for s in chapter.sections for e in s.exhibits if e.name == "own-paths"]
    panel = own.panels[0]
    assert isinstance(panel, Lines)
    (curve,) = [curve for curve in panel.curves if curve.name == "EWC"]
    assert curve.y[0].mean == 1
    assert curve.y[1].mean == math.inf
    assert curve.y[1].low is None
    write_report(store, None, tmp_path / "report.html")
    write_figures(store, "study", tmp_path / "figures")


def test_figures_of_several_benchmarks_say_which(tmp_path: Path):
    """And keep their names when the sweep goes on to another benchmark."""
    store = Store(str(tmp_path / "results"))

    def drawn(benchmark: str, cell: str) -> set[str]:
        rows = cells(cell)
        rows["runs"][0] |= {"benchmark": benchmark}
        store.commit("study", cell, rows)
        return {file.stem for file in write_figures(store, "study", tmp_path / "figures")}

    drawn("rotated-digits", "a")
    two = drawn("permuted-digits", "b")
    three = drawn("split-digits", "c")
    assert two <= three
    for benchmark in ("rotated", "permuted", "split"):
        assert f"study-{benchmark}-digits-2-tasks-test-split-summary" in three
    assert not [name for name in three if name.endswith("-2")]


def test_two_configurations_of_a_method_stay_apart(tmp_path: Path):
    store = Store(str(tmp_path / "results"))
    rows = cells("a1", "a2", "b1", "b2")
    for row in rows["runs"]:
        first = row["cell_id"].startswith("a")
        row |= {"seed": int(row["cell_id"][1]), "learning_rate": 0.1 if first else 0.2}
        row |= {"average_accuracy": 0.4 if first else 0.6, "keep_minima": [1, 2]}
    store.commit("first", "a", rows)
    (chapter,) = collect(store)
    summary = chapter.sections[1].exhibits[0]
    panel = summary.panels[0]
    assert isinstance(panel, Intervals)
    assert panel.names == ["MC-SGD 1", "MC-SGD 2"]
    assert [each.mean for each in panel.values] == pytest.approx([40, 60])
    assert summary.notes[0] == "MC-SGD 1: learning_rate 0.1"
    assert panel.styles[0] != panel.styles[1]


def test_sequences_of_tasks_stay_apart(tmp_path: Path):
    store = Store(str(tmp_path / "results"))
    rows = cells("a", "b", "c")
    for row, angle in zip(rows["runs"], (9.0, 18.3, None), strict=True):
        row["angle"] = angle
    store.commit("first", "a", rows)
    titles = [section.title for section in collect(store)[0].sections]
    assert titles[1:] == [
        "Accuracy: rotated-digits, 2 tasks of 18.3 degrees, test split",
        "Accuracy: rotated-digits, 2 tasks of 9 degrees, test split",
        "Accuracy: rotated-digits, 2 tasks, test split",
    ]


def same(ours: Summary, theirs: Summary) -> None:
    assert ours.count == theirs.count
    for name in ("mean", "low", "high"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-12)


def test_moments_say_what_the_values_say():
    for values in ([0.5], [0.5, 0.5], [0.1, 0.4, 0.9]):
        whole = summarise(values)
        assert from_moments(len(values), whole.mean, whole.std) == whole
    assert from_moments(3, math.inf, None) == Summary(3, math.inf, None, None, None)


def test_leaving_out():
    assert spread_out(list(range(1, 21)), 4) == [1, 7, 14, 20]
    assert spread_out([1, 2], 4) == [1, 2]
    assert left_out("tasks", 4, 4) == []
    assert left_out("tasks", 4, 20) == ["4 of 20 tasks drawn; the SQL has them all"]


def test_names_of_minima_stand_on_their_own_plane(exhibits: dict[str, Exhibit]):
    names = draw(exhibits["planes"]).layout.annotations
    on = [(each.xref, each.text) for each in names if each.xref != "paper"]
    assert on == [
        (axis, minimum)
        for axis in ("x", "x2")
        for minimum in ("sequential 1", "sequential 5", "multitask 5")
    ]


def test_plotly_takes_every_figure(exhibits: dict[str, Exhibit]):
    """Its own check of every property comes with the figure's class."""
    for exhibit in exhibits.values():
        if exhibit.panels:
            assert draw(exhibit).data


# Figures


def test_figures_are_pdf_and_png_of_a_paper_s_width(store: Store, tmp_path: Path):
    folder = tmp_path / "new" / "figures"
    files = write_figures(store, "study", folder)
    assert sorted(folder.iterdir()) == sorted(files)
    assert len(files) == len({file.stem for file in files}) * 2
    for file in files:
        data = file.read_bytes()
        assert 2_000 < len(data) < 1_000_000
        if file.suffix == ".pdf":
            assert data.startswith(b"%PDF-")
            assert data.rstrip().endswith(b"%%EOF")
            (width,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) [\d.]+ \]", data)
            assert float(width) / 72 in (pytest.approx(3.35), pytest.approx(6.9))
        else:
            with Image.open(file) as image:
                image.load()
                assert 1000 < image.width < 2100
                assert 250 < image.height < 4000
                assert len(image.convert("L").getcolors() or range(256)) > 10


# The commands


def test_commands(store: Store, tmp_path: Path, lmc, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert lmc("report", store.root, "--sweep", "study-nightly") == (0, "report.html\n", "")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The nights" in text
    assert "The search" not in text
    status, out, err = lmc("figures", store.root, "-o", "figures", "--sweep", "study-nightly")
    assert (status, err) == (0, "")
    assert out.split() == [
        "figures/study-nightly-nights.pdf",
        "figures/study-nightly-nights.png",
    ]


def test_hours_are_those_of_the_stacks(tmp_path: Path) -> None:
    """Each cell's row has the time of the whole stack; an analysis trains in none.

    What another sweep has run cost this one nothing.
    """
    store = Store(str(tmp_path))
    stack = [run(f"c{n}", n, wall_seconds=7200.0, replicas=4) for n in range(4)]
    alone = run("a", purpose="analysis", analysis="plane", wall_seconds=3600.0)
    taken = run("t", seed=7, wall_seconds=7200.0, replicas=1, reused_from="before")
    store.commit("s", "a", {"runs": [*stack, alone, taken]})
    with store.database("s") as database:
        section = runs(database, "s")
    assert section is not None
    assert [row[-1] for row in section.exhibits[0].sheet.rows] == ["2.0", "1.0"]


def test_bad_input_is_one_line(store: Store, tmp_path: Path, lmc):
    (tmp_path / "file").write_text("here already")
    empty, there = str(tmp_path / "empty"), tmp_path / "report.html"
    there.write_text("an older report")
    nothing = Store(str(tmp_path / "nothing"))
    nothing.commit("first", "a", {"runs": [run("c1", status="diverged")]})
    for arguments, message in (
        (("report", empty, "-o", str(there)), "no results in"),
        (("figures", empty, "-o", str(tmp_path)), "no results in"),
        (("report", store.root, "-o", str(there), "--sweep", "studi"), "did you mean 'study'"),
        (("report", store.root, "-o", str(tmp_path)), "it is a folder"),
        (("report", store.root, "-o", str(tmp_path / "no" / "report.html")), "no folder"),
        (("report", store.root, "-o", str(tmp_path / "file" / "report.html")), "no folder"),
        (("figures", store.root, "-o", str(tmp_path / "file" / "more")), "cannot write"),
        (("figures", store.root), "--output"),
        (("figures", nothing.root, "-o", str(tmp_path / "f")), "nothing to draw"),
    ):
        status, out, err = lmc(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("lmc-ray: error: ")
        assert err.count("\n") == 1
        assert message in err
    assert there.read_text() == "an older report"
    assert not Path(empty).exists()


def test_an_empty_root_and_an_unknown_sweep_of_a_script_s(tmp_path: Path, store: Store):
    with pytest.raises(UserError, match="no results in"):
        write_report(Store(str(tmp_path / "empty")), None, tmp_path / "report.html")
    with pytest.raises(UserError, match="unknown sweep 'x'"):
        write_report(store, "x", tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_older_report(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "report.html"
    file.write_text("an older report")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(store, "study-nightly", file)
    assert file.read_text() == "an older report"
    assert list(tmp_path.iterdir()) == [file]


def test_a_report_does_not_load_ray(store: Store, tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from lmc_ray.store import Store\n"
        "from lmc_ray.report import write_report\n"
        "write_report(Store(sys.argv[1]), None, Path(sys.argv[2]))\n"
        "assert not {'ray', 'torch'} & sys.modules.keys()"
    )
    arguments = [store.root, str(tmp_path / "report.html")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def test_seeds_are_counted(exhibits: dict[str, Exhibit]):
    panel = exhibits["own-paths"].panels[0]
    assert isinstance(panel, Lines)
    for curve in panel.curves:
        assert {each.count for each in curve.y} == {len(SEEDS)}


def test_no_two_configurations_of_a_part_look_alike(store: Store):
    """Of a front of MC-SGD beside a front of ER inside it, which share their colour."""
    methods = ("mcsgd", "er-mcsgd", "naive-sgd", "multitask")
    rows = [{"method": method, "study": None} for method in methods]
    groups = [Group([row], {}, number, False) for row in rows for number in range(1, 5)]
    with store.database() as database:
        styles = Part(database, groups).styles
    assert len(set(styles.values())) == len(groups) == len(styles)
    assert styles["ER + MC-SGD 1"] == palette.of_method("er-mcsgd")


def test_no_configuration_looks_like_another_method():
    firsts = {palette.of_method(method): method for method in TITLES if method != "er-mcsgd"}
    many = [palette.of_method("mcsgd", number) for number in range(1, 17)]
    assert len(set(many)) == len(many)
    assert {firsts[style] for style in many if style in firsts} == {"mcsgd"}
