"""The report in a real browser (chromium, headless), and its speed and size on a large root.

Without chromium the browser's tests are skipped and say so; where LMC_CI_MUST_BROWSE is set that is
a failure. How long the large report takes is printed, for people: machines differ.
"""

import html
import json
import math
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from results import run
from small_study import small_study

from lmc_ray.report import write_report
from lmc_ray.store import Store
from lmc_ray.store.schemas import OWN_MINIMUM, PLAIN_MINIMUM
from lmc_ray.tables.groups import METHODS

pytestmark = pytest.mark.soak

SCHEMES = {"light": 1, "dark": 0}  # chromium's numbers
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}

# Asks the page, once it is drawn, what a reader would see.
PROBE = """
<script>
addEventListener("load", async () => {
  while (document.documentElement.dataset.drawn === undefined) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const paper = () => [...document.querySelectorAll(".plot .main-svg")]
    .filter((svg) => svg.style.background).map((svg) => svg.style.background);
  const hover = (plot) => {
    const trace = plot._fullData.find((trace) => trace.hovertemplate);
    const place = (places, index) => typeof places[index] === "number" ? places[index] : 0;
    const middle = (places) => Math.floor(places.length / 2);
    const at = { xval: place(trace.x, 0), yval: place(trace.y, 0) };
    if (trace.type === "heatmap") {  // where a triangle of accuracies has a value
      at.xval = place(trace.x, trace.x.length - 1);
    } else if (trace.type === "contour") {
      at.xval = trace.x[middle(trace.x)];
      at.yval = trace.y[middle(trace.y)];
    }
    Plotly.Fx.hover(plot, at, trace.xaxis + trace.yaxis);
    const words = [...plot.querySelectorAll(".hoverlayer text")].map((text) => text.textContent);
    Plotly.Fx.unhover(plot);
    return words.join(" ");
  };
  const seen = {
    loaded: performance.getEntriesByType("resource").map((entry) => entry.name),
    page: getComputedStyle(document.body).backgroundColor,
    paper: paper(),
    drawn: [...document.querySelectorAll(".plot")].map((plot) => ({
      id: plot.id,
      marks: plot.querySelectorAll(".scatterlayer path, .heatmaplayer image, .contourlayer path")
        .length,
      width: plot.querySelector(".main-svg").getBoundingClientRect().width,
      hover: hover(plot),
    })),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  dispatchEvent(new Event("beforeprint"));
  seen.printed = paper();
  const place = document.createElement("pre");
  place.id = "seen";
  place.textContent = JSON.stringify(seen);
  document.body.append(place);
});
</script>
"""


@dataclass(frozen=True)
class Visit:
    """What chromium made of a page."""

    dom: str
    console: list[str]

    @property
    def seen(self) -> dict[str, Any]:
        found = re.search(r'<pre id="seen">(.*?)</pre>', self.dom, re.DOTALL)
        assert found, "the page was never drawn"
        return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        problem = "the report cannot be looked at here: there is no chromium"
        if os.environ.get("LMC_CI_MUST_BROWSE"):
            pytest.fail(problem)
        pytest.skip(problem)
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    file = folder / "report.html"
    write_report(small_study(str(folder / "results")), None, file)
    text = file.read_text(encoding="utf-8")
    assert text.count("</body>") == 1
    file.write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    return file


def visit(chromium: str, page: Path, *options: str) -> Visit:
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=60000", "--window-size=1200,900"]
    command += [f"--user-data-dir={page.parent / 'profile'}", *options]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=240
    )
    return Visit(done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_plot_is_drawn_in_both_schemes(chromium: str, report: Path, scheme: str):
    found = visit(chromium, report, f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}")
    assert found.console == []
    seen = found.seen
    assert seen["loaded"] == []
    assert len(seen["drawn"]) == report.read_text(encoding="utf-8").count('class="plot"')
    for plot in seen["drawn"]:
        assert plot["marks"] > 0, plot
        assert plot["width"] > 900, plot
        assert re.search(r"\d", plot["hover"]), plot
    assert seen["page"] == PAPER[scheme]
    assert set(seen["paper"]) == {PAPER[scheme]}
    assert set(seen["printed"]) == {PAPER["light"]}
    assert seen["overflow"] <= 0


def test_it_fits_a_telephone(chromium: str, report: Path):
    found = visit(chromium, report, "--window-size=500,900")
    assert found.console == []
    assert found.seen["overflow"] <= 0


def test_it_prints(chromium: str, report: Path):
    pdf = report.with_suffix(".pdf")
    visit(chromium, report, f"--print-to-pdf={pdf}", "--blink-settings=preferredColorScheme=0")
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert pdf.stat().st_size > 50_000


def test_a_mistake_would_be_noticed(chromium: str, tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html><title>x</title><script>nothing.here()</script>")
    assert "nothing is not defined" in "".join(visit(chromium, page).console)


@pytest.mark.timeout(900)
def test_a_thousand_runs_and_a_million_rows_of_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """All methods, ten configurations of each, ten seeds of each configuration."""
    store = Store(str(tmp_path / "results"))
    rng = np.random.default_rng(0)
    for method in METHODS:
        store.commit("large", method, large(rng, method, range(10), 10))
    with store.database() as database:
        counts = "(SELECT count(*) FROM runs), (SELECT count(*) FROM paths)"
        runs, points = database.execute(f"SELECT {counts}").fetchone() or (0, 0)
    assert runs == 1000
    assert points >= 1_000_000
    file, start = tmp_path / "report.html", time.monotonic()
    write_report(store, None, file)
    seconds, megabytes = time.monotonic() - start, file.stat().st_size / 1e6
    with capsys.disabled():
        print(f"\n{runs} runs, {points} path rows: {seconds:.1f} s, {megabytes:.1f} MB")
    assert megabytes < 15


def large(
    rng: np.random.Generator, method: str, configurations: range, seeds: int
) -> dict[str, list[dict[str, Any]]]:
    """Runs of 20 tasks, each with five paths on ten tasks at 21 points."""
    tasks, own = 20, OWN_MINIMUM.get(method, PLAIN_MINIMUM)
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("runs", "accuracies", "barriers", "paths")
    }
    ends = [
        ((own, 1), (own, tasks)),
        *(((own, task), ("inner", tasks)) for task in (1, 5, 10, 15)),
    ]
    for configuration in configurations:
        for seed in range(seeds):
            cell = f"{method}-{configuration}-{seed}"
            setting = {"learning_rate": 0.01 * (1 + configuration), "tasks": tasks}
            value = float(rng.uniform(0.5, 0.9))
            rows["runs"].append(
                run(cell, seed, method=method, average_accuracy=value, forgetting=0.1, **setting)
            )
            rows["accuracies"] += [
                {"cell_id": cell, "minimum": own, "split": "test", "accuracy": value}
                | {"after_task": after, "eval_task": task, "loss": 1.0}
                for after in range(1, tasks + 1)
                for task in range(1, after + 1)
            ]
            for start, stop in ends:
                same = {
                    "cell_id": cell,
                    "path_id": f"{start[0]}:{start[1]}->{stop[0]}:{stop[1]}",
                    "from_minimum": start[0],
                    "from_task": start[1],
                    "to_minimum": stop[0],
                    "to_task": stop[1],
                    "curve": "linear",
                    "control": "same-init",
                    "split": "test",
                }
                for task in range(1, 11):
                    line = {**same, "from_cell_id": cell, "to_cell_id": cell, "loss_rise": value}
                    rows["barriers"].append({**line, "eval_task": task})
                    rows["paths"] += [
                        {**same, "eval_task": task, "alpha": index / 20, "accuracy": value}
                        | {"loss": value + math.sin(index / 7)}
                        for index in range(21)
                    ]
    return rows
