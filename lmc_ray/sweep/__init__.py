"""Sweeps: cells, search, trainables and the runner, on Ray and Optuna."""

from lmc_ray.sweep.analyses import Connectivity
from lmc_ray.sweep.declared import Study
from lmc_ray.sweep.script import main
from lmc_ray.sweep.space import Range
from lmc_ray.sweep.tuned import tuned

__all__ = ["Connectivity", "Range", "Study", "main", "tuned"]
