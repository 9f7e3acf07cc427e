"""The results root: Parquet files that appear whole, once, and are asked for in SQL."""

from lmc_ray.store.commit import check_sweep_name
from lmc_ray.store.schemas import TABLES
from lmc_ray.store.store import Store

__all__ = ["TABLES", "Store", "check_sweep_name"]
