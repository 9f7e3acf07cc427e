"""Benchmarks: sequences of tasks made by rotating, permuting or splitting a source of images."""

from lmc_ray.benchmarks.benchmark import Benchmark, Examples, Part, defaults, load
from lmc_ray.benchmarks.catalog import BenchmarkInfo, Defaults, describe

__all__ = [
    "Benchmark",
    "BenchmarkInfo",
    "Defaults",
    "Examples",
    "Part",
    "defaults",
    "describe",
    "load",
]
