"""A report in one HTML file that needs nothing else: tables and plots, with what they were made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape

import pandas as pd
from pandas.api.types import is_numeric_dtype

from core.results.export import readable

MOST_ROWS = 500  # of a table; the rest is left out, and the report says so

_STYLE = """
:root { color-scheme: light dark; --line: #dcdce3; --soft: #5a5a66; --back: #ffffff; --text: #1d1d22; }
@media (prefers-color-scheme: dark) { :root { --line: #35363f; --soft: #a5a5b2; --back: #15161a; --text: #e8e8ec; } }
body { background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.75rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
p.note, dt { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; }
div.table { overflow-x: auto; } div.plot { background: #ffffff; border-radius: 6px; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top;
  white-space: pre-wrap; min-width: 3rem; max-width: 32rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class Section:
    """A table under a heading, and plots of it."""

    title: str
    table: pd.DataFrame
    note: str = ""
    plots: tuple[str, ...] = ()  # as HTML, without the script that draws them


def html_report(title: str, facts: Mapping[str, str], sections: Iterable[Section], script: str = "") -> bytes:
    """The file.

    Args:
        facts: what the results were made from, by name: setup, versions, date.
        script: JavaScript that the plots need, such as `plotly.offline.get_plotlyjs()`.
    """
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    scripts = f"<script>{script}</script>" if script else ""
    parts = "".join(map(_section, sections))
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>{scripts}</head>'
        f"<body><h1>{escape(title)}</h1><dl>{listed}</dl>{parts}</body></html>\n"
    ).encode()


def _section(section: Section) -> str:
    table = section.table
    left_out = f" The first {MOST_ROWS:,} of {len(table):,} rows." if len(table) > MOST_ROWS else ""
    note = f'<p class="note">{escape((section.note + left_out).strip())}</p>' if section.note or left_out else ""
    plots = "".join(f'<div class="plot">{plot}</div>' for plot in section.plots)
    return f"<h2>{escape(section.title)}</h2>{note}{plots}{_table(table.head(MOST_ROWS))}"


def _table(table: pd.DataFrame) -> str:
    kinds = [' class="number"' if is_numeric_dtype(kind) else "" for kind in table.dtypes]

    def row(cells: Iterable[object], tag: str) -> str:
        made = (f"<{tag}{kind}>{escape(readable(c))}</{tag}>" for c, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    header = row((str(name).replace("_", " ") for name in table.columns), "th")
    body = "".join(row(cells, "td") for cells in table.itertuples(index=False, name=None))
    return f'<div class="table"><table><thead>{header}</thead><tbody>{body}</tbody></table></div>'
