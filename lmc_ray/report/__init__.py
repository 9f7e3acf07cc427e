"""What a sweep found, to look at: one HTML file, and figures for a paper."""

from lmc_ray.report.importances import store_importances
from lmc_ray.report.write import write_figures, write_report

__all__ = ["store_importances", "write_figures", "write_report"]
