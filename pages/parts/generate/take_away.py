"""What can be taken away from the columns of Generate: rows, a link, a command, a script, a steering vector."""

import streamlit as st

from core.errors import SteerscopeError
from core.results.export import export_bytes
from core.settings import ScoreSettings
from core.steering.vector_file import has_control_block
from core.store.reader import Store
from pages.parts.generate.series import Series
from pages.shared.collecting import collect
from pages.shared.comparison import COLUMNS, Column, Comparison
from pages.shared.glossary.index import help_text
from pages.shared.links import file_name, link_button
from pages.shared.messages import show_error
from pages.shared.resources import score
from pages.shared.topics import score_settings

_VECTOR_FILES = {".safetensors": "safetensors", ".gguf": "llama.cpp control vector"}


def take_away(series: Series, shown: Comparison, store: Store) -> None:
    """The buttons below the columns.

    Args:
        shown: the comparison whose texts are shown, of one seed.
    """
    with st.container(horizontal=True):
        if st.button("Collect", help="Adds every complete column of every seed, with its figures, to Compare"):
            _collect(series)
        link_button("A link cannot carry a file." if st.session_state.get("file_topic") else "")
        with st.popover("Command", help="The same on the command line"):
            st.code(shown.request.command(), language=None, wrap_lines=True)
            if score_settings() != ScoreSettings():
                st.caption("The command scores with the default settings.")
        with st.popover("Copy as Python", help="One column as a script that needs no Steerscope"):
            _script(shown, store)
        with st.popover("Vector", help="What a column's edit adds to a token, for other programs"):
            _vector(shown, store)
        checked = st.button("Check at zero strength", help=help_text("zero strength"))
    if checked:
        _prove(shown, store)


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


def _chosen(comparison: Comparison, store: Store, columns: list[Column], key: str, why: str) -> Column | None:
    """One of the columns, with its way of steering; None until the model is loaded, or where none can be had."""
    if not columns:
        st.caption("No column has a text.")
        return None
    by_edit = {column.edit: column for column in columns}
    edit = st.selectbox("Column", list(by_edit), format_func=COLUMNS.get, key=key, width=220)
    if by_edit[edit].way is None and not st.button("Load the model", key=f"{key}_load", help=f"{why}: some seconds"):
        return None
    try:
        _load(comparison, store)
    except SteerscopeError as exc:
        show_error(exc)
        return None
    return by_edit[edit]


def _script(comparison: Comparison, store: Store) -> None:
    column = _chosen(comparison, store, comparison.measured, "script_column", "A script holds what the edit needs")
    if column is None:
        return
    try:
        snippet = comparison.script(column, store)
    except SteerscopeError as exc:
        show_error(exc)
        return
    name = (comparison.request.setup.name, column.edit)
    files = "".join(f", and {file} from the folder where it runs" for file in snippet.files)
    needs = "torch, transformers and sae_lens" if "sae_lens import" in snippet.code else "torch and transformers"
    st.caption(f"Needs {needs}; reads the model and the SAE from the places that it names{files}.")
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


def _vector(comparison: Comparison, store: Store) -> None:
    """The downloads of one column's edit as a vector."""
    steered = [column for column in comparison.measured if column.edit not in ("none", "prompt")]
    column = _chosen(comparison, store, steered, "vector_column", "A vector is measured on the model")
    if column is None or column.way is None:
        return
    if len(column.way.placed) != 1:
        st.caption("This column has more than one edit; a vector is made of one.")
        return
    st.caption(
        "edit(x) - x, mean over the tokens of the unaligned prompts. Exact for Add and Vector, which add the same "
        "everywhere; of the others it is what a constant vector can copy."
    )
    with st.container(horizontal=True):
        for suffix, title in _VECTOR_FILES.items():
            name = file_name(comparison.request.setup.name, column.edit, suffix=suffix.removeprefix("."))
            st.download_button(
                title,
                lambda suffix=suffix: comparison.vector(column, store, suffix),
                name,
                key=f"vector{suffix}",
                on_click="ignore",
                disabled=suffix == ".gguf" and not has_control_block(column.way.placed[0].edit.hook_name),
                help="Measured when it is pressed: a second or two for a small model",
            )


def _collect(series: Series) -> None:
    rows = [row for run in series.complete for row in run.rows()]
    collect(rows, "text")
