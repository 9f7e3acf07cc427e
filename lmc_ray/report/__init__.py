"""What a sweep found, to look at: one HTML file, and figures for a paper."""

from lmc_ray.report.importances import importance_rows
from lmc_ray.report.write import write_figures, write_report

__all__ = ["importance_rows", "write_figures", "write_report"]
