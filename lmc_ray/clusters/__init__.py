"""Cluster files checked offline: what would fail or expose something is found before `ray up`."""

from lmc_ray.clusters.document import Finding
from lmc_ray.clusters.validate import validate

__all__ = ["Finding", "validate"]
