"""The report: what was collected and the setup's results, with plots, as one HTML file that opens offline."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.doctor import versions
from core.errors import SteerscopeError
from core.evaluation.experiments import EXPERIMENTS
from core.results.report import Section, html_report
from pages.shared.charts import figures as charts
from pages.shared.columns import FIGURES
from pages.shared.comparison import COLUMNS
from pages.shared.glossary.index import TERMS
from pages.shared.links import file_name
from pages.shared.messages import count
from pages.shared.resources import open_store, saved_result

PLOTTED = ("topic_percentile", "perplexity", "contamination_share")  # of collected texts
_FACTS = ("title", "model", "sae", "hook_name", "embedding_model", "reference", "built_at", "fingerprint")


def _facts(setup: Setup) -> dict[str, str]:
    """What the results were made from."""
    store = open_store(setup.name)
    made = {"setup": setup.name, **{name: store.meta[name] for name in _FACTS if store.meta.get(name)}}
    written = datetime.now(UTC).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00")
    used = ", ".join(f"{package} {number}" for package, number in versions().items())
    return {name.replace("_", " "): value for name, value in made.items()} | {
        "reference prompts": f"{store.n_prompts:,}",
        "neurons": f"{store.d_sae:,}",
        "versions": used,
        "written": f"{written} UTC",
    }


def _collected(title: str, table: pd.DataFrame) -> Section:
    plots = []
    if "edit" in table:
        terms = {figure: TERMS[key].title for figure, key, _ in FIGURES}
        strips = (
            charts.figure_strip(table, f, terms[f], COLUMNS) for f in PLOTTED if f in table and table[f].notna().any()
        )
        plots = [strip.to_html(full_html=False, include_plotlyjs=False, config=charts.CONFIG) for strip in strips]
    seeds = sorted(table["seed"].dropna().unique()) if "seed" in table else []
    note = f"Collected: {count(len(table), 'row')}." + (f" Seeds: {', '.join(map(str, seeds))}." if seeds else "")
    return Section(title, table.drop(columns="id", errors="ignore"), note, tuple(plots))


def _results(setup: Setup) -> list[Section]:
    """The printed tables of every experiment that the setup has saved."""
    sections = []
    for name, experiment in EXPERIMENTS.items():
        tables = {printed.table: saved_result(setup.name, printed.table) for printed in experiment.printed}
        for printed in experiment.printed:
            if tables[printed.table] is not None:
                known = {table: frame for table, frame in tables.items() if frame is not None}
                command = f"python -m core evaluate {setup.name} --what {name}"
                sections.append(Section(printed.title, printed.of(known), command))
    return sections


def _report(setup: Setup, collected: Mapping[str, pd.DataFrame]) -> bytes:
    from plotly.offline import get_plotlyjs

    sections = [_collected(title, table) for title, table in collected.items()]
    script = get_plotlyjs() if any(section.plots for section in sections) else ""
    return html_report(f"Steerscope: {setup.title}", _facts(setup), [*sections, *_results(setup)], script)


def report_button(setup: Setup, collected: Mapping[str, pd.DataFrame]) -> None:
    """Downloads the report; it is only written when the button is pressed.

    Args:
        collected: the rows to report, by the title of their kind.
    """
    try:
        open_store(setup.name)
    except SteerscopeError:
        return  # the results below say what is missing
    st.download_button(
        "Report",
        lambda: _report(setup, collected),
        file_name("steerscope", setup.name, suffix="html"),
        "text/html",
        on_click="ignore",
        help="All that is shown here, with plots, setup, versions and date, as one file that opens without a network",
    )
