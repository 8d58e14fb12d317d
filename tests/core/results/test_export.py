"""Tables out: what a spreadsheet must not run, what Markdown must not break, and files that are whole or not there."""

import csv
import io
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest

from core.errors import ExportError
from core.results.export import FORMATS, export_bytes, export_table

TABLE = pd.DataFrame(
    {
        "neuron": [7, 13794],
        "score": [0.1234567890123456, np.nan],
        "top_tokens": [np.array([" heart", "|"], dtype=object), np.array([], dtype=object)],
        "text": ['a "quoted", line', "two\nlines | pipe"],
    }
)

READERS = {"parquet": pd.read_parquet, "xlsx": pd.read_excel}


def read_csv(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline="")))


def test_csv_keeps_every_digit_and_quotes_text() -> None:
    assert read_csv(export_bytes(TABLE, "csv")) == [
        ["neuron", "score", "top_tokens", "text"],
        ["7", "0.1234567890123456", '[" heart", "|"]', 'a "quoted", line'],
        ["13794", "", "[]", "two\nlines | pipe"],
    ]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")'])
def test_csv_makes_formulas_inert(text: str) -> None:
    rows = read_csv(export_bytes(pd.DataFrame({text: [text], "n": [-1.5]}), "csv"))
    assert rows == [[f"'{text}", "n"], [f"'{text}", "-1.5"]]


def test_csv_leaves_numbers_and_plain_text_alone() -> None:
    table = pd.DataFrame({"a": [-1, 2], "b": [-0.5, np.inf], "mixed": [-3, "a=b"], "f": np.float32([0.1, -0.2])})
    assert read_csv(export_bytes(table, "csv"))[1:] == [["-1", "-0.5", "-3", "0.1"], ["2", "inf", "a=b", "-0.2"]]


def test_markdown_escapes_pipes_lines_and_markup() -> None:
    table = pd.DataFrame(
        {"n": [1, 2, 3], "x": [1 / 3, np.nan, 2e-9], "te|xt": ["a|b\nc\r\nd", "<b>&\\|", None], "l": [["|"], [], [1]]}
    )
    assert export_bytes(table, "md").decode() == (
        "| n | x | te\\|xt | l |\n"
        "| ---: | ---: | --- | --- |\n"
        '| 1 | 0.3333 | a\\|b<br>c<br>d | ["\\|"] |\n'
        "| 2 |  | &lt;b&gt;&amp;\\\\\\| | [] |\n"
        "| 3 | 2e-09 |  | [1] |\n"
    )


def test_latex_escapes_what_latex_would_run() -> None:
    table = pd.DataFrame(
        {"n": [1, 2], "x": [1 / 3, np.nan], "a_b": ["50% & $x_1 \\^~#{}", None], "l": [["|"], ["\x01 a\nb"]]}
    )
    assert export_bytes(table, "latex").decode() == (
        "% \\usepackage{booktabs, array}\n"
        "\\begin{tabular}{rrll}\n\\toprule\n"
        "n & x & a\\_b & l \\\\\n\\midrule\n"
        "1 & 0.3333 & 50\\% \\& \\$x\\_1 \\textbackslash{}\\textasciicircum{}\\textasciitilde{}\\#\\{\\} & "
        '{[}"|"] \\\\\n'
        '2 &  &  & {[}"\\textbackslash{}u0001 a\\textbackslash{}nb"] \\\\\n'
        "\\bottomrule\n\\end{tabular}\n"
    )


def test_large_numbers_keep_their_whole_digits() -> None:
    table = pd.DataFrame({"x": [16384.25, -123456.7, 1e300, np.inf]})
    shown = [line.strip("| ") for line in export_bytes(table, "md").decode().splitlines()[2:]]
    assert shown == ["16384", "-123457", "1e+300", "inf"]


def test_latex_is_a_tex_file_too(tmp_path: Path) -> None:
    assert export_table(TABLE, tmp_path / "t.tex").read_bytes() == export_bytes(TABLE, "latex")


def test_xlsx_keeps_numbers_and_text() -> None:
    back = pd.read_excel(io.BytesIO(export_bytes(TABLE, "xlsx")))
    assert back["neuron"].tolist() == [7, 13794]
    assert back["score"][0] == TABLE["score"][0]
    assert np.isnan(back["score"][1])
    assert back["top_tokens"].tolist() == ['[" heart", "|"]', "[]"]
    assert back["text"].tolist() == TABLE["text"].tolist()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x","y")'])
def test_xlsx_makes_formulas_inert(text: str) -> None:
    table = pd.DataFrame({text: [text], "n": [-1.5]})
    sheet = openpyxl.load_workbook(io.BytesIO(export_bytes(table, "xlsx"))).active
    assert [[(cell.value, cell.data_type) for cell in row] for row in sheet.iter_rows()] == [
        [(f"'{text}", "s"), ("n", "s")],
        [(f"'{text}", "s"), (-1.5, "n")],
    ]


def test_xlsx_leaves_out_what_a_sheet_cannot_hold() -> None:
    moment = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    back = pd.read_excel(io.BytesIO(export_bytes(pd.DataFrame({"a": ["x\x00\x1fy"], "t": [moment]}), "xlsx")))
    assert back.to_dict("records") == [{"a": "xy", "t": "2026-11-20T12:00:00+00:00"}]


def test_xlsx_refuses_a_cell_that_would_be_cut() -> None:
    message = "an Excel cell holds 32,767 characters, one here has 40,000; export it as parquet"
    with pytest.raises(ExportError, match=message):
        export_bytes(pd.DataFrame({"a": ["x" * 40_000]}), "xlsx")


def test_xlsx_refuses_rows_that_would_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.results.export._SHEET_ROWS", 1)
    with pytest.raises(ExportError, match="a sheet holds 1 rows, this table has 2; export it as parquet"):
        export_bytes(TABLE, "xlsx")


def test_parquet_round_trip(tmp_path: Path) -> None:
    back = pd.read_parquet(export_table(TABLE, tmp_path / "table.parquet"))
    assert back["neuron"].tolist() == [7, 13794]
    assert back["score"][0] == TABLE["score"][0]
    assert np.isnan(back["score"][1])
    assert [list(words) for words in back["top_tokens"]] == [[" heart", "|"], []]
    assert back["text"].tolist() == TABLE["text"].tolist()


def test_parquet_refuses_mixed_columns() -> None:
    with pytest.raises(ExportError, match=r"this table cannot be Parquet: .*; export it as csv"):
        export_bytes(pd.DataFrame({"a": [1, "x", [2]]}), "parquet")


@pytest.mark.parametrize("format", FORMATS)
def test_empty_table(format: str) -> None:
    content = export_bytes(TABLE.iloc[:0], format)
    if format in READERS:
        assert list(READERS[format](io.BytesIO(content)).columns) == list(TABLE.columns)
    elif format == "latex":
        assert "neuron & score & top\\_tokens & text" in content.decode()
    else:
        assert content.decode().splitlines()[0].replace(" ", "").strip("|").replace("|", ",") == ",".join(TABLE.columns)


@pytest.mark.parametrize(("format", "header"), [("csv", "a,a\r\n"), ("md", "| a | a |\n"), ("latex", "a & a \\\\\n")])
def test_columns_of_one_name_are_all_written(format: str, header: str) -> None:
    assert header in export_bytes(pd.DataFrame([[1, "=x"]], columns=["a", "a"]), format).decode()


@pytest.mark.parametrize("format", FORMATS)
def test_format_follows_suffix_unless_named(tmp_path: Path, format: str) -> None:
    def content(file: Path) -> object:
        return pd.read_excel(file).to_dict() if format == "xlsx" else file.read_bytes()  # a workbook has its time in it

    named, other = (
        export_table(TABLE, tmp_path / f"table.{format}"),
        export_table(TABLE, tmp_path / "table.txt", format),
    )
    assert str(content(named)) == str(content(other))
    assert format == "xlsx" or content(named) == export_bytes(TABLE, format)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"table.{format}", "table.txt"])


@pytest.mark.parametrize(("name", "format"), [("t.xls", None), ("t", None), ("t.csv", "pickle")])
def test_unknown_format(tmp_path: Path, name: str, format: str | None) -> None:
    with pytest.raises(ExportError, match="tables are written as csv, md, latex, parquet, xlsx, not '"):
        export_table(TABLE, tmp_path / name, format)
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no folder '.*nowhere' to write 't\.csv' to; create it first"):
        export_table(TABLE, tmp_path / "nowhere" / "t.csv")


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export_table(TABLE, tmp_path / "t.csv")
    before = path.read_bytes()

    def full(source: Path, target: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("core.files.os.replace", full)
    with pytest.raises(ExportError, match=r"cannot write '.*t\.csv': No space left on device"):
        export_table(TABLE.head(1), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    export_table(TABLE.head(1), path)
    assert path.read_bytes() != before


def test_latex_of_many_columns_or_long_text_fits_the_page() -> None:
    table = pd.DataFrame({"text": ["word " * 20], "name": ["short"], **{f"n{i}": [i] for i in range(6)}})
    lines = export_bytes(table, "latex").decode().splitlines()
    assert lines[0] == "% \\usepackage{booktabs, array, adjustbox}"
    assert lines[1] == "\\begin{adjustbox}{max width=\\linewidth, max totalheight=\\textheight}"
    assert lines[2] == "\\begin{tabular}{>{\\raggedright\\arraybackslash}p{0.60\\linewidth}lrrrrrr}"
    assert lines[-2:] == ["\\end{tabular}", "\\end{adjustbox}"]


def test_sheet_is_named_after_what_it_holds() -> None:
    for title, sheet in (
        ("Neurons on texts", "Neurons on texts"),
        ("a/b: [c]" * 6, "a b   c a b   c a b   c a b   c"),
        ("", "Table"),
    ):
        book = openpyxl.load_workbook(io.BytesIO(export_bytes(TABLE, "xlsx", title)))
        assert len(book.sheetnames) == 1
        assert book.sheetnames[0].split() == sheet.split()


def test_sheet_of_a_file_is_named_after_the_file(tmp_path: Path) -> None:
    assert openpyxl.load_workbook(export_table(TABLE, tmp_path / "scores.xlsx")).sheetnames == ["scores"]
