"""The Compare and export page: the collected texts and neurons, the experiments' results, and their export."""

import pandas as pd
import streamlit as st

from core.errors import SteerscopeError
from core.results.export import export_bytes
from pages.parts.compare.kinds import FIRST, KINDS, of_kind
from pages.parts.compare.labels import show_labels
from pages.parts.compare.report import report_button
from pages.parts.compare.saved_tables import show_saved_tables
from pages.shared.charts import figures as charts
from pages.shared.columns import FIGURES
from pages.shared.comparison import COLUMNS
from pages.shared.downloads import download_buttons
from pages.shared.entry import enter
from pages.shared.glossary.index import TERMS, help_text
from pages.shared.messages import count, show_error
from pages.shared.resources import app_store
from pages.shared.setups import chosen_setup

FILTERS = ("setup", "topic", "edit", "case")
_FIGURE_TERMS = {
    **{figure: key for figure, key, _ in FIGURES},
    **{name: name for name in ("score", "g", "prompts", "case")},
}


def _filtered(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows that pass the filters; a filter without a choice passes all."""
    for name in FILTERS:
        if name not in table or table[name].nunique() < 2:
            continue
        chosen = st.multiselect(
            name.capitalize(),
            sorted(table[name].dropna().unique()),
            key=f"{kind}_{name}",
            bind="query-params",
            placeholder="all",
            help="Only rows with one of these; none chosen: all",
            width=220,
        )
        if chosen:
            table = table[table[name].isin(chosen)]
    return table.reset_index(drop=True)


def _column_config(table: pd.DataFrame) -> dict[str, object]:
    config: dict[str, object] = {
        "id": None,
        "collected_at": st.column_config.DatetimeColumn("collected", format="distance"),
    }
    for name, kind in table.dtypes.items():
        term = _FIGURE_TERMS.get(name)
        explained = help_text(term) if term else None
        if pd.api.types.is_float_dtype(kind):
            format = "%.3f" if name in ("score", "g") else "%.3g"
            config[name] = st.column_config.NumberColumn(name.replace("_", " "), format=format, help=explained)
        elif name in ("text", "prompt", "top_tokens"):
            config[name] = st.column_config.TextColumn(name.replace("_", " "), width="medium")
        elif name not in config:
            config[name] = st.column_config.Column(name.replace("_", " "), help=explained)
    return config


def _remove(ids: list[int]) -> None:
    try:
        app_store().discard(ids)
    except SteerscopeError as exc:
        st.session_state["compare_error"] = str(exc)


def _choose_columns(table: pd.DataFrame, kind: str) -> list[str]:
    """The columns to show and to export, in the order in which they were chosen; by default the most important."""
    names = [name for name in table if name != "id"]
    return (
        st.multiselect(
            "Columns",
            names,
            [name for name in FIRST[kind] if name in names],
            format_func=lambda name: name.replace("_", " "),
            key=f"{kind}_columns",
            help="What the table shows and what is exported, in this order; none chosen: all",
        )
        or names
    )


def _actions(table: pd.DataFrame, selected: pd.DataFrame, kind: str, columns: list[str]) -> None:
    """Buttons that export the selected rows (or all shown, if none is selected), and that remove rows."""
    chosen = (selected if len(selected) else table)[columns]
    with st.container(horizontal=True):
        help = f"{count(len(chosen), 'row')} of {count(len(columns), 'column')}: those selected, otherwise all shown"
        download_buttons(chosen, "steerscope", KINDS[kind], key=kind, help=help)
        with st.popover("Copy", help="The same as text, ready to copy"):
            format = st.segmented_control("As", ["md", "latex", "csv"], default="md", required=True, key=f"{kind}_copy")
            st.code(export_bytes(chosen, format).decode(), language=None, height=240)
        st.button(
            "Remove selected",
            key=f"{kind}_remove",
            disabled=selected.empty,
            on_click=_remove,
            args=(selected["id"].tolist(),),
            help=f"Removes {count(len(selected), 'selected row')} for good",
        )
        with st.popover("Clear"):
            st.button(
                f"Remove all {count(len(table), 'row')} shown",
                key=f"{kind}_clear",
                on_click=_remove,
                args=(table["id"].tolist(),),
                help="They cannot be brought back",
            )


def _choose_figure(table: pd.DataFrame) -> str | None:
    """The figure to plot; None if the texts have no figures."""
    figures = [figure for figure, _, _ in FIGURES if figure in table]
    if not figures:
        return None
    return st.selectbox(
        "Figure",
        figures,
        format_func=lambda figure: TERMS[_FIGURE_TERMS[figure]].title,
        key="figure",
        bind="query-params",
        width=220,
        help="What the picture shows; each point is a text",
    )


def _show_kind(collected: pd.DataFrame, kind: str) -> None:
    table = of_kind(collected, kind)
    st.header(KINDS[kind], anchor=False)
    with st.container(horizontal=True):
        figure = _choose_figure(table) if kind == "text" else None
        table = _filtered(table, kind)
    if figure:
        title = TERMS[_FIGURE_TERMS[figure]].title
        st.plotly_chart(charts.figure_strip(table, figure, title, COLUMNS), config=charts.CONFIG, key="strip")
    columns = _choose_columns(table, kind)
    selection = st.dataframe(
        table,
        hide_index=True,
        key=f"{kind}_rows",
        on_select="rerun",
        selection_mode="multi-row",
        placeholder="",
        column_order=columns,
        column_config=_column_config(table),
    )
    rows = [row for row in selection["selection"]["rows"] if row < len(table)]
    _actions(table, table.iloc[rows], kind, columns)


def main() -> None:
    enter("What has been collected?")
    try:
        collected = app_store().collected()
    except SteerscopeError as exc:
        show_error(exc)
        return
    if problem := st.session_state.pop("compare_error", None):
        show_error(problem)
    if collected.empty:
        st.markdown(
            "Nothing yet. **Collect** on the page Topic adds the open neuron; on Generate, every complete column; on "
            "Special tokens, both answers. What you collect is kept until you remove it."
        )
    kinds = [] if collected.empty else [kind for kind in KINDS if (collected["kind"] == kind).any()]
    report_button(chosen_setup()[0], {KINDS[kind]: of_kind(collected, kind) for kind in kinds})
    for kind in kinds:
        _show_kind(collected, kind)
    show_labels(chosen_setup()[0])
    show_saved_tables(chosen_setup()[0])


main()
