"""The results root: Parquet files that appear whole, once, and are asked for in SQL."""

from lmc_ray.store.commit import check_sweep_name
from lmc_ray.store.compact import Compacted
from lmc_ray.store.schemas import TABLES
from lmc_ray.store.store import Store
from lmc_ray.store.verify import Finding

__all__ = ["TABLES", "Compacted", "Finding", "Store", "check_sweep_name"]
