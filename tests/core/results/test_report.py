"""The HTML report: whole, harmless, and of nothing but itself."""

import re
from html.parser import HTMLParser

import pandas as pd

from core.results.report import MOST_ROWS, Section, html_report


class _Cells(HTMLParser):
    """The text of every table cell, by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def rows_of(page: bytes) -> list[list[str]]:
    parser = _Cells()
    parser.feed(page.decode())
    return parser.rows


def test_cells_are_those_of_the_table() -> None:
    table = pd.DataFrame({"top_tokens": ["<b>a</b> & b", None], "score": [0.123456, float("nan")]})
    page = html_report("T", {}, [Section("S", table)])
    assert rows_of(page) == [["top tokens", "score"], ["<b>a</b> & b", "0.1235"], ["", ""]]
    assert b"<b>" not in page
    assert page.count(b'<td class="number">') == 2


def test_nothing_that_is_typed_becomes_markup() -> None:
    attack = "<script>alert(1)</script>"
    table = pd.DataFrame({attack: [attack]})
    page = html_report(attack, {attack: attack}, [Section(attack, table, attack)]).decode()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 8  # title twice, fact, section, note, header, cell


def test_long_tables_are_cut_and_the_report_says_so() -> None:
    page = html_report("T", {}, [Section("S", pd.DataFrame({"n": range(MOST_ROWS + 1)}), "Note.")])
    assert len(rows_of(page)) == MOST_ROWS + 1  # the header too
    assert f"Note. The first {MOST_ROWS} of {MOST_ROWS + 1} rows." in page.decode()


def test_plots_and_their_script_are_inside_and_nothing_is_fetched() -> None:
    section = Section("S", pd.DataFrame({"n": [1]}), plots=("<div id=plot></div>",))
    page = html_report("T", {"setup": "tiny"}, [section], "draw()").decode()
    assert "<script>draw()</script>" in page
    assert '<div class="plot"><div id=plot></div></div>' in page
    assert "<dt>setup</dt><dd>tiny</dd>" in page
    assert not re.search(r"(src|href)=|url[(]|@import", page)
