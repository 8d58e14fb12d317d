"""Tables out: what a spreadsheet must not run, what Markdown must not break, and files that are whole or not there."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.errors import ExportError
from core.export import FORMATS, export_bytes, export_table

TABLE = pd.DataFrame(
    {
        "neuron": [7, 13794],
        "score": [0.1234567890123456, np.nan],
        "top_tokens": [np.array([" heart", "|"], dtype=object), np.array([], dtype=object)],
        "text": ['a "quoted", line', "two\nlines | pipe"],
    }
)


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
        '| 1 | 0.333333 | a\\|b<br>c<br>d | ["\\|"] |\n'
        "| 2 |  | &lt;b&gt;&amp;\\\\\\| | [] |\n"
        "| 3 | 2e-09 |  | [1] |\n"
    )


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
    if format == "parquet":
        assert list(pd.read_parquet(io.BytesIO(content)).columns) == list(TABLE.columns)
    else:
        assert content.decode().splitlines()[0].replace(" ", "").strip("|").replace("|", ",") == ",".join(TABLE.columns)


@pytest.mark.parametrize("format", ["csv", "md"])
def test_columns_of_one_name_are_all_written(format: str) -> None:
    table = pd.DataFrame([[1, "=x"]], columns=["a", "a"])
    assert export_bytes(table, format).decode().count("a") == 2


@pytest.mark.parametrize("format", FORMATS)
def test_format_follows_suffix_unless_named(tmp_path: Path, format: str) -> None:
    content = export_bytes(TABLE, format)
    assert export_table(TABLE, tmp_path / f"table.{format}").read_bytes() == content
    assert export_table(TABLE, tmp_path / "table.txt", format).read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"table.{format}", "table.txt"]


@pytest.mark.parametrize(("name", "format"), [("t.xls", None), ("t", None), ("t.csv", "pickle")])
def test_unknown_format(tmp_path: Path, name: str, format: str | None) -> None:
    with pytest.raises(ExportError, match="tables are written as csv, md, parquet, not '"):
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
