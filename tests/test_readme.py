"""Every command, query and script of the README works when pasted.

Commands are run in a copy of the checkout, in the README's order, with `.venv/bin` standing for the
environment that runs the tests. `make test` is what runs this file, so it is not run again here.
A command in a block marked `<!-- long -->` takes an hour or more: it is run with `--smoke` added;
to other sweeps than the first, options are added that make less of them.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lmc_ray.store import Store

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(<!-- long -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
DATA = Path(os.environ.get("LMC_DATA", ROOT.parent / "shared" / "data"))


def blocks(language: str) -> list[tuple[bool, str]]:
    """(long, text) of each code block of a language, in order."""
    return [(bool(long), text) for long, kind, text in BLOCK.findall(TEXT) if kind == language]


LESS = {
    "--pareto": " --trials 2 --seeds 1 --tasks 2",
    "--preset": " --trials 1 --seeds 1 --tasks 2 --method mcsgd --method naive-sgd",
    "sweeps/connectivity.py": " --seeds 2",
    "sweeps/continual.py": " --trials 1 --seeds 1",
    "sweeps/multitask.py": " --trials 1 --seeds 1",
    "lmc-ray figures": " --sweep cl-gym",
    "lmc-ray bench ": " --network mlp-32-32",
}
"""Of an option that is given twice, the last counts."""


def less(command: str) -> str:
    """The command as it is, with fewer trials, seeds and tasks."""
    if "--smoke" in command:
        return command
    return command + next((more for word, more in LESS.items() if word in command), "")


def commands() -> list[str]:
    found = []
    for long, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith("#") and not line.startswith("make test"):
                found.append(line + (" --smoke" if long else ""))
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with an environment, data, and the pictures that the README names."""
    top = tmp_path_factory.mktemp("checkout")
    for name in (
        *("sweeps", "cluster", "lmc_ray", "Makefile", "pyproject.toml", "requirements.lock"),
        *("README.md", "LICENSE"),
    ):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, top / name)
    (top / ".venv").symlink_to(sys.prefix)
    (top / "home").mkdir()
    if DATA.is_dir():
        (top / "data").symlink_to(DATA)
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 10)):
        for kind in ("daisy", "rose", "tulip", "violet"):
            folder = top / "pictures" / "flowers" / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return top


def run(command: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # The environment is there already: make shall not install it again.
        ["bash", "-c", re.sub("^make ", "make -o .venv/.installed ", command)],
        cwd=checkout,
        env=os.environ | {"RAY_AUTH_MODE": "disabled", "HOME": str(checkout / "home")},
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_the_readme_begins_with_the_two_commands() -> None:
    first, second = commands()[0], re.search(r"^make test", TEXT, re.MULTILINE)
    assert first == "make sweep"
    assert second is not None
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_every_command_works(checkout: Path) -> None:
    """In order, for later ones read what earlier ones wrote."""
    for command in commands():
        if "--data data" in command and not (checkout / "data").exists():
            print(f"not run, no images in LMC_DATA or ../shared/data: {command}")
            continue
        begin = time.monotonic()
        done = run(less(command), checkout)
        print(f"{time.monotonic() - begin:.0f} s: {command}")
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, command
        if command == "make sweep":
            assert_shows_something(done.stdout)
    with Store(str(checkout / "results")).database() as database:  # as `lmc-ray query` does
        for _, text in blocks("sql"):
            assert database.sql(text).fetchall(), text
    for _, text in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=checkout, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{text}\n{done.stderr}"


def assert_shows_something(output: str) -> None:
    """The default sweep's table: naive SGD forgets much, MC-SGD much less."""
    forgetting = {}
    for method in ("naive SGD", "Stable SGD", "MC-SGD"):
        line = next(line for line in output.splitlines() if line.startswith(method))
        forgetting[method] = float(re.findall(r"([\d.]+) ± [\d.]+", line)[1])
    assert forgetting["naive SGD"] >= 15
    assert forgetting["MC-SGD"] < forgetting["naive SGD"] / 2
