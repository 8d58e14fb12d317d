"""The setup: its choice in the sidebar, its facts, and building its store if that is missing."""

from datetime import UTC, datetime
from pathlib import Path

import streamlit as st

from core.catalog import DEFAULT_SETUP, Setup
from core.errors import SteerscopeError, StoreError, StoreNotBuiltError
from core.settings import store_root
from core.store.reader import Store
from core.store.schema import build_command
from pages.shared.glossary.index import help_text
from pages.shared.messages import plain, show_error
from pages.shared.resources import open_store, setup_problems, setups

_STAGES = {
    "load": "Loading the language model and the SAE",
    "activations": "Running the reference prompts through both",
    "embeddings": "Embedding the reference prompts",
    "assemble": "Writing the store",
}


def _on_setup() -> None:
    st.session_state["neuron"] = None  # in another SAE its number is another neuron; the topic stays


def choose_setup() -> None:
    """Shows the choice of the setup, what the chosen one still needs, and the facts of its store."""
    known = setups()
    for problem in setup_problems():
        show_error(problem)
    asked = st.query_params.get("setup")
    if asked is not None and asked not in known:
        st.warning(plain(f"The link asks for a setup '{asked}', which is not among these."))
    names = list(known)
    name = st.selectbox(
        "Setup",
        names,
        index=names.index(DEFAULT_SETUP),
        key="setup",
        bind="query-params",
        on_change=_on_setup,
        help=help_text("setup"),
    )
    setup, lacking = known[name]
    st.caption(plain(setup.title or setup.model))
    if lacking:
        st.warning(plain(f"To run, it lacks {'; '.join(lacking)}."))
    _show_facts(setup)
    _show_others(known, name)


def _show_others(known: dict[str, tuple[Setup, list[str]]], chosen: str) -> None:
    """Shows what each other setup is, or what it still needs."""
    with st.popover("All setups", width="stretch", help="What each setup is, and what it lacks to run here"):
        for name, (setup, missing) in known.items():
            if name != chosen:
                st.markdown(f"**{plain(name)}**  \n{plain(setup.title or setup.model)}")
                st.caption(plain(f"lacks {'; '.join(missing)}") if missing else "can run here")


def _age(built_at: str) -> str:
    """The time since then, in words."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(built_at)).total_seconds()
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            n = int(seconds // length)
            return f"{n} {unit}{'s' * (n > 1)} ago"
    return "just now"


def _show_facts(setup: Setup) -> None:
    try:
        store = open_store(setup.name)
    except StoreError:
        st.caption("No store built yet.")
        return
    meta = store.meta
    lines = [
        f"Model: {plain(Path(setup.model).name)}, {meta['n_layers']} blocks",
        plain(meta["hook_name"]),
        f"SAE: {store.d_sae:,} neurons, {meta['architecture']}",
        f"Reference: {store.n_prompts:,} prompts",
        f"Store built {_age(meta['built_at'])}",
    ]
    st.caption("  \n".join(lines))


def chosen_setup() -> tuple[Setup, list[str]]:
    """The setup chosen in the sidebar, and what it still needs to run."""
    return setups()[st.session_state["setup"]]


def open_chosen_store() -> tuple[Setup, Store]:
    """The chosen setup and its store. If there is no store, shows how to build it and ends the run of the page."""
    setup, lacking = chosen_setup()
    try:
        return setup, open_store(setup.name)
    except StoreNotBuiltError:
        st.markdown(f"**{plain(setup.name)}** has no store yet: nothing is known of its neurons.")
    except StoreError as exc:
        show_error(exc)
    if lacking:
        st.markdown(plain(f"It cannot be built here: it lacks {'; '.join(lacking)}."))
        st.stop()
    st.markdown(
        "Building runs the reference prompts through the model and the SAE: some ten minutes for the embedded setups "
        "on two cores, far longer for large models. Stopped, it continues later where it was. The same as a command:"
    )
    st.code(build_command(store_root(), setup.name), language=None, wrap_lines=True)
    if st.button("Build the store", type="primary", help="Runs here; leave this page open"):
        _build(setup)
    st.stop()


def _build(setup: Setup) -> None:
    """Builds the store with a bar for each stage. Any other use of the page stops it; a later build continues."""
    from core.build.pipeline import build

    bar = st.progress(0.0)
    st.button("Stop", help="What is done is kept")

    def report(stage: str, share: float) -> None:
        bar.progress(min(1.0, share), f"{_STAGES[stage]}: {share:.0%}")

    try:
        build(setup, store_root(), progress=report)
    except SteerscopeError as exc:
        show_error(exc)
        return
    st.rerun()
