"""Exports tables as CSV, Markdown, LaTeX, Parquet or Excel."""

import io
import json
import math
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from core.errors import ExportError
from core.files import written_whole

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # of text that spreadsheets run: OWASP, "CSV Injection"
_DIGITS = 4  # significant digits in Markdown and LaTeX
_LATEX = str.maketrans(
    {
        **{c: f"\\{c}" for c in "&%$#_{}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        "[": "{[}",  # after a line break it would start an optional argument
    }
)
# a LaTeX table of more columns or rows is made to fit the page; longer text than this breaks
_LATEX_COLUMNS, _LATEX_ROWS, _LATEX_LONG = 7, 40, 40
_LATEX_TEXT = 0.6  # share of the line for the columns of long text
_SHEET_NAME = re.compile(r"[\[\]:*?/\\']")  # characters that Excel refuses in a sheet's name
_SHEET_NAME_LENGTH = 31  # Excel's limit
_SHEET_ROWS = 2**20 - 1  # Excel's limit, less the header
_CELL_CHARACTERS = 32_767  # Excel's limit
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # characters that XML and LaTeX cannot hold


def _plain(value: Any) -> Any:
    """Lists and dictionaries as JSON text; other values unchanged."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else value


def _inert(value: Any) -> Any:
    """Puts an apostrophe before text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_STARTS) else value


def without_apostrophe(text: str) -> str:
    """Text as it was before it was written to a sheet: without the apostrophe that keeps it from being a formula."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA_STARTS) else text


def _csv(table: pd.DataFrame) -> bytes:
    """UTF-8 CSV with the line ends of RFC 4180; numbers at full precision."""
    columns = [column if is_numeric_dtype(column) else column.map(_plain).map(_inert) for _, column in table.items()]
    header = [_inert(str(name)) for name in table.columns]
    text: str = pd.DataFrame(dict(enumerate(columns))).to_csv(header=header, index=False, lineterminator="\r\n")
    return text.encode()


def readable(value: Any) -> str:
    """A value as text to read: floats rounded, missing values empty."""
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float | np.floating):
        whole = 1e4 <= abs(float(value)) < 1e15  # no digit before the point is lost
        return f"{value:.0f}" if whole else f"{value:.{_DIGITS}g}"
    return str(_plain(value))


def _markdown_cell(value: Any) -> str:
    text = readable(value)
    for plain, escaped in (("\\", "\\\\"), ("|", "\\|"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(plain, escaped)
    return "<br>".join(text.splitlines())


def _markdown(table: pd.DataFrame) -> bytes:
    """A GitHub table; four significant digits."""
    rules = ["---:" if is_numeric_dtype(kind) else "---" for kind in table.dtypes]
    rows = [[_markdown_cell(str(name)) for name in table.columns], rules]
    rows += [[_markdown_cell(value) for value in row] for row in table.itertuples(index=False, name=None)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).encode()


def _latex(table: pd.DataFrame) -> bytes:
    """A LaTeX tabular with booktabs rules that fits a page; four significant digits."""

    def line(cells: Iterable[Any]) -> str:
        escaped = (_CONTROL.sub("", " ".join(readable(cell).split())).translate(_LATEX) for cell in cells)
        return f"{' & '.join(escaped)} \\\\"

    rows = [line(row) for row in table.itertuples(index=False, name=None)]
    lines = (
        f"\\begin{{tabular}}{{{_alignment(table)}}}",
        *("\\toprule", line(map(str, table.columns)), "\\midrule", *rows, "\\bottomrule", "\\end{tabular}"),
    )
    if len(table.columns) > _LATEX_COLUMNS or len(table) > _LATEX_ROWS:
        fit = "\\begin{adjustbox}{max width=\\linewidth, max totalheight=\\textheight}"
        lines = ("% \\usepackage{booktabs, array, adjustbox}", fit, *lines, "\\end{adjustbox}", "")
    else:
        lines = ("% \\usepackage{booktabs, array}", *lines, "")
    return "\n".join(lines).encode()


def _alignment(table: pd.DataFrame) -> str:
    """Numbers to the right; columns of long text share `_LATEX_TEXT` of the line, so that they break."""
    longest = [0 if is_numeric_dtype(c) else max((len(readable(v)) for v in c), default=0) for _, c in table.items()]
    n_long = sum(length > _LATEX_LONG for length in longest)
    wrapped = f">{{\\raggedright\\arraybackslash}}p{{{_LATEX_TEXT / max(1, n_long):.2f}\\linewidth}}"
    return "".join(
        "r" if is_numeric_dtype(kind) else wrapped if length > _LATEX_LONG else "l"
        for kind, length in zip(table.dtypes, longest, strict=True)
    )


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    try:
        table.to_parquet(buffer, index=False)
    except (ValueError, TypeError) as exc:  # from pyarrow: a column of mixed types, or a duplicate name
        raise ExportError(f"this table cannot be Parquet: {str(exc).splitlines()[0]}; export it as csv") from exc
    return buffer.getvalue()


def _sheet_cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()  # Excel has no time zones
    value = _inert(_plain(value))
    if not isinstance(value, str):
        return value
    if len(value) > _CELL_CHARACTERS:
        raise ExportError(
            f"an Excel cell holds {_CELL_CHARACTERS:,} characters, one here has {len(value):,}; export it as parquet"
        )
    return _CONTROL.sub("", value)


def _xlsx(table: pd.DataFrame, title: str) -> bytes:
    """A workbook of one sheet, named after what it holds; numbers at full precision."""
    if len(table) > _SHEET_ROWS:
        raise ExportError(f"a sheet holds {_SHEET_ROWS:,} rows, this table has {len(table):,}; export it as parquet")
    columns = [column if is_numeric_dtype(column) else column.map(_sheet_cell) for _, column in table.items()]
    header = [_sheet_cell(str(name)) for name in table.columns]
    buffer = io.BytesIO()
    sheet = _SHEET_NAME.sub(" ", title)[:_SHEET_NAME_LENGTH].strip() or "Table"
    content = pd.DataFrame(dict(enumerate(columns)))
    content.to_excel(buffer, sheet_name=sheet, header=header, index=False, engine="openpyxl")
    return buffer.getvalue()


_WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    "csv": _csv, "md": _markdown, "latex": _latex, "parquet": _parquet
}  # fmt: skip
FORMATS = (*_WRITERS, "xlsx")
_SUFFIXES = {"tex": "latex"}


def export_bytes(table: pd.DataFrame, format: str, title: str = "") -> bytes:
    """The table, without its index, as the bytes of a file.

    Args:
        title: what the table is; Excel's sheet is named so.

    Raises:
        ExportError: an unknown format, or a table that the format cannot hold.
    """
    if format not in FORMATS:
        raise ExportError(f"tables are written as {', '.join(FORMATS)}, not '{format}'")
    return _xlsx(table, title) if format == "xlsx" else _WRITERS[format](table)


def export_table(table: pd.DataFrame, path: Path, format: str | None = None) -> Path:
    """Writes the table to a file atomically, replacing an earlier one of that name.

    Args:
        format: one of `FORMATS`; None: the suffix of `path` decides.

    Raises:
        ExportError: an unknown format, no such folder, or a disk that is full or not writable.
    """
    suffix = path.suffix.removeprefix(".")
    content = export_bytes(table, format or _SUFFIXES.get(suffix, suffix), path.stem)
    if not path.parent.is_dir():
        raise ExportError(f"no folder '{path.parent}' to write '{path.name}' to; create it first")
    try:
        with written_whole(path) as partial:
            partial.write_bytes(content)
    except OSError as exc:
        raise ExportError(f"cannot write '{path}': {exc.strerror}; choose another place") from exc
    return path
