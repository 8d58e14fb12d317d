"""The Generate page: one prompt and seed, continued under each way of steering, a column for each."""

import streamlit as st

from core.errors import SteerscopeError
from core.evaluation.example import TABLES
from core.results.export import export_bytes
from core.settings import ScoreSettings
from core.store.reader import Store
from pages.parts.generate.controls import asked_request, show_controls
from pages.shared.columns import comparison_html
from pages.shared.comparison import COLUMNS, Comparison, Layer, Request
from pages.shared.entry import enter
from pages.shared.glossary.index import help_text
from pages.shared.links import file_name, link_button
from pages.shared.messages import count, show_error
from pages.shared.names import neuron_names, with_names
from pages.shared.resources import ScoredIn, app_store, layers_beside, open_store, saved_result, score, setups
from pages.shared.setups import chosen_setup, open_chosen_store
from pages.shared.topics import score_settings


def _cost(request: Request, last: Comparison | None) -> str:
    """The expected time of a run, as far as it is known."""
    due = len(request.edits) * request.generation.max_new_tokens
    made = 0 if last is None else sum(len(c.generation.ids) for c in last.columns if c.generation is not None)
    if not made:
        return f"{count(len(request.edits), 'column')}; the first run loads the model: some seconds."
    return f"{count(len(request.edits), 'column')}, about {max(1, round(due * last.seconds / made))} s."


def _layer(name: str, request: Request) -> Layer:
    (setup, _), store = setups()[name], open_store(name)
    return Layer(setup, store, score(setup, store, request.topic, score_settings()))


def _generate(request: Request, store: Store, scored: ScoredIn) -> None:
    """Streams the columns. Stop, or any other use of the page, ends it and keeps the text so far."""
    comparison = st.session_state["comparison"] = Comparison(request)
    place = st.empty()
    try:
        names = neuron_names(store)
        for _ in comparison.run(store, scored, [_layer(name, request) for name in request.also]):
            place.html(comparison_html(comparison, st.session_state["shade"], names))
    except SteerscopeError as exc:
        del st.session_state["comparison"]
        show_error(exc)
        return
    st.rerun()  # all figures are known now, so the best of each row can be marked


def _saved(request: Request) -> Comparison | None:
    """The comparison that comes with the setup, if it is the one asked for."""
    tables = {name: table for name in TABLES if (table := saved_result(request.setup.name, name)) is not None}
    return Comparison.of_example(request, tables) if len(tables) == len(TABLES) else None


def _show(comparison: Comparison, asked: Request, store: Store) -> None:
    request = comparison.request
    if not comparison.complete and not comparison.measured:
        comparison.measure(store)
    names = neuron_names(store)
    st.html(comparison_html(comparison, st.session_state["shade"], names))
    if not comparison.complete:
        st.caption(
            f"Stopped: 0 of {count(len(request.edits), 'column')} complete. The figures are of what has been written."
        )
    elif request != asked:
        st.caption("The controls have changed since; Generate brings the columns up to date.")
    if comparison.notes:
        st.caption("  \n".join(with_names(note, names) for note in comparison.notes))
    with st.container(horizontal=True):
        if st.button("Collect", help="Adds every complete column, with its figures, to Compare and export"):
            _collect(comparison)
        link_button("A link cannot carry a file." if st.session_state.get("file_topic") else "")
        with st.popover("Command", help="The same on the command line"):
            st.code(request.command(), language=None, wrap_lines=True)
            if score_settings() != ScoreSettings():
                st.caption("The command scores with the default settings.")
        with st.popover("Copy as Python", help="One column as a script that needs transformers and sae_lens alone"):
            _script(comparison, store)
        checked = st.button("Check at zero strength", help=help_text("zero strength"))
    if checked:
        _prove(comparison, store)


def _load(comparison: Comparison, store: Store) -> None:
    """Makes the ways of steering of a saved comparison, which has none yet."""
    if any(column.way is None and not column.problem for column in comparison.columns):
        request = comparison.request
        comparison.make_ways(store, score(request.setup, store, request.topic, score_settings()))


def _prove(comparison: Comparison, store: Store) -> None:
    try:
        with st.spinner("Writing every column at zero strength ..."):
            _load(comparison, store)
            comparison.prove(store)
    except SteerscopeError as exc:
        show_error(exc)
    else:
        st.rerun()  # the columns show the result


def _script(comparison: Comparison, store: Store) -> None:
    titles = {column.edit: COLUMNS[column.edit] for column in comparison.measured}
    if not titles:
        st.caption("No column has a text.")
        return
    edit = st.selectbox("Column", list(titles), format_func=titles.get, key="script_column", width=220)
    column = next(column for column in comparison.measured if column.edit == edit)
    if column.way is None and not st.button("Load the model", help="A script holds what the edit needs: some seconds"):
        return
    try:
        _load(comparison, store)
        snippet = comparison.script(column, store)
    except SteerscopeError as exc:
        show_error(exc)
        return
    name = (comparison.request.setup.name, edit)
    with st.container(horizontal=True):
        st.download_button("Script", snippet.code, file_name(*name, suffix="py"), "text/x-python", on_click="ignore")
        for file, table in snippet.files.items():
            st.download_button(
                file,
                export_bytes(table, "csv"),
                file,
                "text/csv",
                on_click="ignore",
                help="The script reads this file in the folder that it is run in",
            )
    st.code(snippet.code, language="python", height=420)


def _collect(comparison: Comparison) -> None:
    rows = comparison.rows()
    try:
        for row in rows:
            app_store().collect(row)
    except SteerscopeError as exc:
        show_error(exc)
    else:
        st.toast(f"{count(len(rows), 'text')} in Compare and export.")


def main() -> None:
    enter("What does each way of steering do to the text?")
    state = st.session_state
    setup, store = open_chosen_store()
    show_controls(setup, layers_beside(setup, store))
    comparison: Comparison | None = state.get("comparison")
    try:
        request = asked_request()
        with st.container(horizontal=True, vertical_alignment="center"):
            pressed = st.button(
                "Generate", type="primary", disabled=not request.edits, help="The same seed for every column"
            )
            st.button("Stop", help="Keeps what has been written")
            st.caption(_cost(request, comparison) if request.edits else "Choose at least one column.")
        # on the first visit, an embedded model generates at once
        first = setup.origin == "embedded" and not chosen_setup()[1] and not state.get("generate_visited")
        state["generate_visited"] = True
        if first:
            comparison = state["comparison"] = _saved(request)
        if request.edits and (pressed or (first and comparison is None)):
            _generate(request, store, score(setup, store, request.topic, score_settings()))
            return
    except SteerscopeError as exc:
        show_error(exc)
        return
    if comparison is not None and comparison.request.setup == setup:
        _show(comparison, request, store)
    else:
        st.markdown("Each column continues the prompt from the same seed. Press **Generate** to see them side by side.")


main()
