"""Permuted tasks: from task 2 on, each has its own fixed shuffle of the pixels' places."""

import numpy as np
from jaxtyping import Int64

from lmc_ray.benchmarks.protocol import shuffled


def index_map(height: int, width: int, task: int) -> Int64[np.ndarray, " pixels"]:
    """Which old pixel each new one shows in `task` (≥ 2); the channels of a pixel stay together."""
    return shuffled(height * width, "pixels", task)
