"""The Generate page: one prompt continued under each way of steering, or a chat with the model as it is and steered."""

import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.evaluation.example import TABLES
from core.store.reader import Store
from pages.parts.generate.chat_view import show_chat
from pages.parts.generate.controls import asked_request, show_controls
from pages.parts.generate.series import MIN_SEEDS, Series
from pages.parts.generate.take_away import take_away
from pages.shared.columns import FIGURES, comparison_html, figure_table, interval_cell
from pages.shared.comparison import Comparison, Layer, Request
from pages.shared.entry import enter
from pages.shared.messages import count, show_error
from pages.shared.names import neuron_names, with_names
from pages.shared.pacing import paced
from pages.shared.resources import ScoredIn, layers_beside, open_store, saved_result, score, setups
from pages.shared.setups import chosen_setup, open_chosen_store
from pages.shared.topics import score_settings

CONTINUE, CHAT = "Continue a prompt", "Chat"


def _cost(request: Request, last: Series | None) -> str:
    """The expected time of a run, as far as it is known."""
    what = count(len(request.edits), "column") + (f" × {request.n_seeds} seeds" if request.n_seeds > 1 else "")
    if last is None or not last.seconds:
        return f"{what}; the first run loads the model: some seconds."
    missing = request.n_seeds - len(Series.of(request, last).runs)
    due = len(request.edits) * request.generation.max_new_tokens * missing
    return f"{what}, about {max(1, round(due * last.seconds))} s."


def _layer(name: str, request: Request) -> Layer:
    (setup, _), store = setups()[name], open_store(name)
    return Layer(setup, store, score(setup, store, request.topic, score_settings()))


def _columns(series: Series, shown: Comparison, store: Store, *, stale: bool = False) -> str:
    """The columns of one seed as HTML, with the figures of every seed that is measured."""
    bests = {figure: series.best(figure, better) for figure, _, better in FIGURES}

    def table(edit: str) -> str:
        if not any(column.edit == edit and column.figures for run in series.runs for column in run.columns):
            return ""
        return figure_table(
            (term, interval_cell(series.interval(edit, figure)), bests[figure] == edit) for figure, term, _ in FIGURES
        )

    return comparison_html(shown, st.session_state["shade"], neuron_names(store), table, stale=stale)


def _generate(request: Request, store: Store, scored: ScoredIn) -> None:
    """Streams the columns. Stop, or any other use of the page, ends it and keeps the text so far."""
    state = st.session_state
    last: Series | None = state.get("series")
    # what was seen stays until there is something new
    place = st.html(_columns(last, last.runs[0], store, stale=True)) if last and last.runs else st.empty()
    series = state["series"] = Series.of(request, last)
    state["shown_seed"] = None
    try:
        for _ in paced(series.run(store, scored, [_layer(name, request) for name in request.also])):
            place.html(_columns(series, series.runs[-1], store))
    except SteerscopeError as exc:
        del state["series"]
        show_error(exc)
        return
    st.rerun()  # shows what goes with the finished columns


def _saved(request: Request) -> Series | None:
    """The comparison that comes with the setup, if it is the one asked for."""
    tables = {name: table for name in TABLES if (table := saved_result(request.setup.name, name)) is not None}
    example = Comparison.of_example(request.of_seed(0), tables) if len(tables) == len(TABLES) else None
    return None if example is None else Series(request, [example])


def _choose_seed(series: Series) -> Comparison:
    """The comparison whose texts are shown: of the first seed, or of one that is picked."""
    seeds = {str(run.request.generation.seed): run for run in series.runs if run.columns}
    if len(seeds) < 2:
        return series.runs[0]
    first = next(iter(seeds))
    picked = st.segmented_control("Texts of seed", list(seeds), default=first, required=True, key="shown_seed")
    return seeds.get(picked or first, series.runs[0])


def _show(series: Series, asked: Request, store: Store) -> None:
    request, last = series.request, series.runs[-1]
    if not last.complete and not last.measured:
        last.measure(store)
    shown = _choose_seed(series)
    st.html(_columns(series, shown, store, stale=request != asked))
    if request != asked:
        st.caption("The controls have changed since: these columns are of the settings before. Generate renews them.")
    if len(series.complete) < request.n_seeds:
        done = f"{len(series.complete)} of {count(request.n_seeds, 'seed')}"
        st.caption(f"Stopped: {done} complete. The figures are of what has been written.")
    st.caption(_about_figures(series))
    if shown.notes:
        st.caption("  \n".join(with_names(note, neuron_names(store)) for note in shown.notes))
    take_away(series, shown, store)


def _about_figures(series: Series) -> str:
    n = len(series.complete)
    if n < 2:
        return (
            f"Figures of one seed: no column is marked as best. More seeds give intervals; from {MIN_SEEDS} on, marks."
        )
    spans = f"Figures: mean and 95% interval over {n} seeds."
    if n < MIN_SEEDS:
        return f"{spans} From {MIN_SEEDS} seeds on, the best column of a row is marked."
    return f"{spans} Bold: differs from every other column on the same seeds."


def _continue(setup: Setup, store: Store) -> None:
    """Columns side by side that continue one prompt."""
    state = st.session_state
    show_controls(setup, store, layers_beside(setup, store))
    series: Series | None = state.get("series")
    try:
        request = asked_request(store)
        with st.container(horizontal=True, vertical_alignment="center"):
            pressed = st.button(
                "Generate", type="primary", disabled=not request.edits, help="The same seed for every column"
            )
            st.button("Stop", help="Keeps what has been written")
            st.caption(_cost(request, series) if request.edits else "Choose at least one column.")
        # on the first visit, an embedded model generates at once
        first = setup.origin == "embedded" and not chosen_setup()[1] and not state.get("generate_visited")
        state["generate_visited"] = True
        if first:
            series = state["series"] = _saved(request)
        if request.edits and (pressed or (first and series is None)):
            _generate(request, store, score(setup, store, request.topic, score_settings()))
            return
    except SteerscopeError as exc:
        show_error(exc)
        return
    if series is not None and series.runs and series.request.setup == setup:
        _show(series, request, store)
    else:
        st.markdown("Each column continues the prompt from the same seed. Press **Generate** to see them side by side.")


def main() -> None:
    enter("What does each way of steering do to the text?")
    setup, store = open_chosen_store()
    if setup.has_template:
        mode = st.segmented_control(
            "Mode",
            [CONTINUE, CHAT],
            default=CONTINUE,
            required=True,
            label_visibility="collapsed",
            help="Chat: a conversation of several turns, the original beside one way of steering",
            key="mode",
            bind="query-params",
        )
        if mode == CHAT:
            show_chat(setup, store)
            return
    _continue(setup, store)


main()
