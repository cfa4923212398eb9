"""Tables, CSV and Parquet: numeric columns are a vector; any column can be the condition instead."""

import csv
import io
import math
from dataclasses import dataclass

import numpy as np
import torch

from pofx.data.dataset import Data
from pofx.data.request import Request
from pofx.data.rows import Given, Labels, Numbers, Observations, split_rows
from pofx.domains import Vectors
from pofx.errors import Unusable, nearest

FEW_VALUES, MOST_CLASSES = 32, 1000  # whole numbers of few values are classes; more classes than this are none
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none"})


@dataclass(frozen=True)
class _Column:
    """A column: ``numbers`` with NaN where a cell has none, and the cells as ``texts``."""

    name: str
    numbers: np.ndarray
    texts: list[str]
    first_text: int | None  # row of the first cell that is neither a number nor missing

    @property
    def is_text(self) -> bool:
        return self.first_text is not None


def read_csv(request: Request) -> Data:
    """Comma, semicolon or tab between cells; the first line names the columns unless it is all numbers."""
    try:
        with request.path.open(newline="", encoding="utf-8-sig") as file:
            lines = _rows(file.read())
    except UnicodeDecodeError:
        raise Unusable(f"{request.place} is not UTF-8 text; save the table as UTF-8") from None
    except csv.Error as error:
        raise Unusable(f"{request.place} cannot be read as CSV ({error}); save the table again") from None
    if not lines:
        raise Unusable(f"{request.place} is empty; give a table with a row per observation")
    header = lines[0][1]
    if all(_number(cell) is not None for cell in header):
        header = [f"x{i + 1}" for i in range(len(header))]
    else:
        del lines[0]
    for number, row in lines:
        if len(row) != len(header):
            raise Unusable(f"{request.place}, line {number}: {len(header)} cells wanted, got {len(row)}; mend the line")
    columns = [
        _column(name.strip() or f"x{i + 1}", [row[i].strip() for _, row in lines]) for i, name in enumerate(header)
    ]
    return _split_table(columns, request)


def _rows(text: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of each row; blank lines are left out."""
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]


def _number(cell: str) -> float | None:
    """A cell as a number, NaN where it is missing, None where it is text."""
    if cell.lower() in _MISSING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return None


def _column(name: str, cells: list[str]) -> _Column:
    values = [_number(cell) for cell in cells]
    first = next((i for i, value in enumerate(values) if value is None), None)
    numbers = np.array([math.nan if value is None else value for value in values])
    return _Column(name, numbers, cells, first)


def read_parquet(request: Request) -> Data:
    """Numeric and boolean columns are numbers, all others text."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError:
        raise Unusable("Parquet files need the pyarrow library; pip install 'pofx[parquet]'") from None
    try:
        table = pyarrow.parquet.read_table(request.path)
    except (arrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise Unusable(f"{request.place} cannot be read as Parquet ({reason}); write it again") from None
    columns = []
    for field, column in zip(table.schema, table.columns):
        kind = field.type
        if arrow.types.is_floating(kind) or arrow.types.is_integer(kind) or arrow.types.is_boolean(kind):
            numbers = np.array([math.nan if value is None else float(value) for value in column.to_pylist()])
            columns.append(_Column(field.name, numbers, [f"{value:g}" for value in numbers], None))
        else:
            texts = ["" if value is None else str(value) for value in column.to_pylist()]
            columns.append(_Column(field.name, np.full(len(texts), math.nan), texts, 0))
    return _split_table(columns, request)


def _split_table(columns: list[_Column], request: Request) -> Data:
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Unusable(f"{request.place} has two columns named {twice!r}; rename one")
    for name in request.options.drop:
        if name not in names:
            raise Unusable(f"{request.place} has no column {name!r} to drop{nearest(name, names)}")
    condition = request.condition
    if condition != "none" and condition not in names:
        raise Unusable(f"{request.place} has no column {condition!r} for --condition{nearest(condition, names)}")
    if condition in request.options.drop:
        raise Unusable(f"column {condition!r} is the condition and cannot be dropped; leave out drop={condition}")
    kept = [column for column in columns if column.name not in request.options.drop]
    used = _numeric([column for column in kept if column.name != condition], request)
    given = {column.name: _as_condition(column, request) for column in kept if column.name == condition}
    x = np.column_stack([column.numbers for column in used]).astype(np.float32)
    domain = Vectors(len(used), tuple(column.name for column in used))
    return split_rows(Observations(domain, torch.from_numpy(x), given=given), request)


def _numeric(columns: list[_Column], request: Request) -> list[_Column]:
    """The columns that can be part of x; a person decides what becomes of the others."""
    used = []
    for column in columns:
        if column.first_text is not None:
            cell = column.texts[column.first_text]
            request.findings.stop(
                f"column {column.name!r} has text ({cell!r} in row {column.first_text + 1}); use it as --condition "
                f"{column.name}, or drop it: {request.place}:drop={column.name}"
            )
        else:
            used.append(_finite(column, request))
    if not used:
        raise Unusable(f"{request.place} has no numeric column left; give at least one")
    return used


def _finite(column: _Column, request: Request) -> _Column:
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(column.numbers.astype(np.float32))
    if not bad.any():
        return column
    request.findings.stop(
        f"column {column.name!r} has {int(bad.sum()):,} of {len(bad):,} values missing, NaN or infinite, the first in "
        f"row {int(bad.argmax()) + 1}; mend or remove these rows, or drop it: {request.place}:drop={column.name}"
    )
    fill = float(np.median(column.numbers[~bad])) if not bad.all() else 0.0
    return _Column(column.name, np.where(bad, fill, column.numbers), column.texts, None)


def _as_condition(column: _Column, request: Request) -> Given:
    """Text and whole numbers of few values are classes, other numbers a vector of one."""
    if column.is_text:
        names, index = np.unique(np.array(column.texts), return_inverse=True)
        return _labels(column, index, tuple(str(name) for name in names))
    numbers = _finite(column, request).numbers
    values, index = np.unique(numbers, return_inverse=True)
    if len(values) <= FEW_VALUES and (values == np.round(values)).all():
        return _labels(column, index, tuple(f"{value:.0f}" for value in values))
    return Numbers(torch.from_numpy(numbers.astype(np.float32))[:, None], (column.name,))


def _labels(column: _Column, index: np.ndarray, names: tuple[str, ...]) -> Labels:
    if len(names) > MOST_CLASSES:
        raise Unusable(
            f"column {column.name!r} has {len(names):,} different texts, classes are at most {MOST_CLASSES:,}; drop it"
        )
    if "" in names:
        raise Unusable(f"column {column.name!r} has missing values, in row {column.texts.index('') + 1}; mend them")
    return Labels(torch.from_numpy(index.astype(np.int64)), names)
