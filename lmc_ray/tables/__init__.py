"""Tables for people, from the rows of the store: `lmc-ray table` and the end of every sweep."""

from lmc_ray.tables.accuracy import AccuracyRow, accuracy_rows, accuracy_sheets, row_notes
from lmc_ray.tables.barriers import BarriersRow, barriers_rows, barriers_sheets, ends
from lmc_ray.tables.compare import Compared, Comparison, compare, compare_sheets
from lmc_ray.tables.contrasts import contrast_sheets
from lmc_ray.tables.nights import NIGHT_COLUMNS, night_cells, night_sheet
from lmc_ray.tables.overview import overview_sheets
from lmc_ray.tables.pending import pending
from lmc_ray.tables.sheet import Sheet, render

__all__ = [
    "NIGHT_COLUMNS",
    "AccuracyRow",
    "BarriersRow",
    "Compared",
    "Comparison",
    "Sheet",
    "accuracy_rows",
    "accuracy_sheets",
    "barriers_rows",
    "barriers_sheets",
    "compare",
    "compare_sheets",
    "contrast_sheets",
    "ends",
    "night_cells",
    "night_sheet",
    "overview_sheets",
    "pending",
    "render",
    "row_notes",
]
