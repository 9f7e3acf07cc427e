"""Tuned configurations that ship with the package, for confirmations without a search."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from lmc_ray.models import unrounded


@cache
def _all() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(files("lmc_ray.sweep").joinpath("tuned.toml").read_text())


def tuned(benchmark: str, study: str, network: str | None = None) -> dict[str, Any] | None:
    """The hyperparameters that our search found for a study; None where it has not been made.

    `tuned.toml` beside this file names the sweep that found them.

    Args:
        benchmark: e.g. ``rotated-mnist``.
        study: a method, or a label.
        network: those found with it come first, then those found with it in float32 if it is
            one of `-bf16`, then those with the benchmark's usual one.
    """
    places = [*(_own(benchmark, network) if network else ()), benchmark]
    found = next((each for place in places if (each := _all().get(place, {}).get(study))), None)
    return found and {name: value for name, value in found.items() if name != "found"}


def tuned_with(benchmark: str, study: str, network: str) -> bool:
    """Whether a study has a configuration that was found with just this network, rounded or not."""
    return any(study in _all().get(place, {}) for place in _own(benchmark, network))


def _own(benchmark: str, network: str) -> list[str]:
    """Where the configurations of just this network stand, then those of the unrounded one."""
    return [f"{benchmark} {name}" for name in (network, unrounded(network))]
