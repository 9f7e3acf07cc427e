"""Whether a sweep's workers fit into memory, asked before any of them starts."""

from lmc_ray.bench.memory import RAY, predicted_bytes
from lmc_ray.errors import UserError
from lmc_ray.learners.evaluation import EVALUATION_GROUP
from lmc_ray.models import Network

PATH_ENDS = 6
"""Minima that a trio keeps for the ends of its paths."""

_TRIO = 4
"""Minima that a trio has after a task and evaluates together, the most of any method."""

KEPT_EACH = 2 * _TRIO
"""Of each task whose minima are kept: once while they train, and as files before the commit."""


def check_fits(
    network: Network, *, batch_size: int, replicas: int, workers: int, memory: float, kept: int = 0
) -> None:
    """Refuse workers that need more memory together than there is.

    Args:
        network: what they train.
        batch_size: the largest.
        replicas: in a stack.
        workers: at a time.
        memory: bytes there are for all of them.
        kept: minima of each replica that are kept.

    Raises:
        UserError: with the numbers.
    """
    each = RAY + predicted_bytes(
        network,
        batch_size=batch_size,
        replicas=replicas,
        minima=_TRIO,
        group=EVALUATION_GROUP,
        kept=kept,
    )
    if workers * each > memory:
        raise UserError(
            f"{workers} workers with stacks of {replicas} replicas need about"
            f" {workers * each / 1e9:.1f} GB, {each / 1e9:.1f} GB each; there are"
            f" {memory / 1e9:.1f} GB: lower --max-concurrent or --replicas"
        )
