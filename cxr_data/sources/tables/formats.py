"""The formats of tables by the names that --labels gives them."""

from cxr_data.sources.tables import chexpert, columns, mimic, nih, padchest, vindr
from cxr_data.sources.tables.row import TableFormat

FORMATS: dict[str, TableFormat] = {
    "nih": nih.FORMAT,
    "chexpert": chexpert.FORMAT,
    "mimic": mimic.FORMAT,
    "padchest": padchest.FORMAT,
    "vindr": vindr.FORMAT,
    "columns": columns.FORMAT,
}
