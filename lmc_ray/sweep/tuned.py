"""Tuned configurations that ship with the package, for confirmations without a search."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def _all() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(files("lmc_ray.sweep").joinpath("tuned.toml").read_text())


def tuned(benchmark: str, method: str, network: str | None = None) -> dict[str, Any] | None:
    """The hyperparameters that our search found for a method; None where it has not been made.

    Those found with the network, else those with the benchmark's usual one. `tuned.toml` beside
    this file names the sweep that found them.
    """
    own = _all().get(f"{benchmark} {network}", {})
    found = own.get(method) or _all().get(benchmark, {}).get(method)
    return found and {name: value for name, value in found.items() if name != "found"}
