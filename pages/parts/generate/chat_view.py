"""The chat of the Generate page: a conversation with the model as it is, beside the same with the model steered."""

import math
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.steering.chat import Chat, Turn
from core.store.reader import Store
from pages.parts.generate.controls import asked_request, show_chat_controls
from pages.shared.collecting import collect
from pages.shared.columns import (
    FIGURES,
    columns_html,
    figure_table,
    section,
    shade_range,
    shaded_text,
    shading_legend,
)
from pages.shared.columns import number as format_number
from pages.shared.comparison import COLUMNS, Column, Comparison, Request, format_alphas
from pages.shared.links import link_button
from pages.shared.messages import show_error
from pages.shared.names import neuron_names, with_names
from pages.shared.pacing import paced
from pages.shared.resources import layers_beside, score, workbench
from pages.shared.setups import chosen_setup
from pages.shared.topics import score_settings

_KEY = "chat session"


@dataclass
class ChatSession:
    """A conversation in this browser session, with what each turn was asked for."""

    setup: Setup
    chat: Chat = field(default_factory=Chat)
    requests: list[Request] = field(default_factory=list)  # one per answered turn
    ways: Comparison | None = None  # the ways of steering, as last made

    def ways_for(self, request: Request, store: Store) -> Comparison:
        """The ways of steering of a request, made anew only where it changed.

        Raises:
            SteerscopeError: the setup cannot be loaded.
        """
        if self.ways is None or self.ways.request != request:
            ways = Comparison(request, [Column(edit) for edit in request.edits])
            ways.make_ways(store, score(request.setup, store, request.topic, score_settings()))
            self.ways = ways
        return self.ways


def _session(setup: Setup) -> ChatSession:
    session: ChatSession | None = st.session_state.get(_KEY)
    if session is None or session.setup != setup:
        session = st.session_state[_KEY] = ChatSession(setup)
    return session


def show_chat(setup: Setup, store: Store) -> None:
    """The controls, every turn with its answers side by side, and one composer for both."""
    steered = show_chat_controls(setup, store, layers_beside(setup, store))
    session = _session(setup)
    words = st.chat_input("Say something to both")
    try:
        request = asked_request(store, chat_by=steered)
        if words is not None:
            session.chat.say(words, request.generation.seed)
        due = bool(session.chat.turns) and not session.chat.turns[-1].answers
        _show_turns(session, request, store, due=due)
        if due:
            _answer(session, request, store)
    except SteerscopeError as exc:
        show_error(exc)
        if session.chat.turns and not session.chat.turns[-1].answers:
            session.chat.turns.pop()
        return
    if session.chat.turns:
        _below(session, store)
    else:
        ready = "" if not chosen_setup()[1] else " It cannot run here yet: the sidebar says what it lacks."
        st.markdown(
            "What you say below goes to the original and to the steered model; each answers in a conversation of its "
            f"own. The first message loads the model: some seconds.{ready}"
        )


# ---- answering ----


def _answer(session: ChatSession, request: Request, store: Store) -> None:
    """Streams the answers to the last turn. Stop, or any other use of the page, keeps the text so far."""
    turn = session.chat.turns[-1]
    place = st.html(_turn_html(turn, request, store))
    st.button("Stop", key="stop chat", on_click=_on_stop, help="Keeps what has been written")
    ways = session.ways_for(request, store)
    if problems := [column.problem for column in ways.columns if column.problem]:
        session.chat.turns.pop()
        show_error(problems[0])
        return
    bench = workbench(session.setup, store)
    steps = session.chat.reply(
        bench,
        [column.way for column in ways.columns if column.way is not None],
        ways.topic,
        request.generation,
        st.session_state["system"],
    )
    number = len(session.chat.turns) - 1
    session.requests[number:] = [request]
    for _ in paced(steps):
        place.html(_turn_html(turn, request, store))
    turn.figures = bench.figures(turn.answers, ways.topic)
    st.rerun()  # the turn takes its place among the others


def _on_stop() -> None:
    turns = st.session_state[_KEY].chat.turns
    if turns and not turns[-1].answers:  # nothing has been written yet
        turns.pop()


def _regenerate(number: int) -> None:
    session: ChatSession = st.session_state[_KEY]
    session.chat.again(number)
    del session.requests[number:]


def _forget() -> None:
    st.session_state.pop(_KEY, None)


# ---- showing ----


def _show_turns(session: ChatSession, request: Request, store: Store, *, due: bool) -> None:
    """The titles of both columns, and the answered turns."""
    turns = session.chat.turns
    if not turns:
        return
    st.html(columns_html(section(COLUMNS[edit], edit) for edit in request.edits))
    for number, turn in enumerate(turns[:-1] if due else turns):
        asked = session.requests[number]
        if not turn.figures:  # it was stopped
            turn.figures = workbench(session.setup, store).figures(turn.answers, session.ways_for(asked, store).topic)
        st.html(_turn_html(turn, asked, store))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                "Regenerate",
                key=f"again {number}",
                type="tertiary",
                on_click=_regenerate,
                args=(number,),
                help="Both answers with the next seed; the turns after it go",
            )
            with st.expander("Figures"):
                st.html(_figures_html(turn, asked))
        if asked.edits != request.edits or asked.steering != request.steering:
            st.caption(f"Answered under {COLUMNS[asked.edits[-1]]} with the settings of that time.")


def _turn_html(turn: Turn, request: Request, store: Store) -> str:
    """What the user says, and below it both answers side by side."""
    shading, names = st.session_state["shade"], neuron_names(store)
    bounds = shade_range(turn.answers, shading)
    cells = []
    for answer in turn.answers:
        problem = f'<p class="ss-problem">{escape(answer.problem)}</p>' if answer.problem else ""
        cells.append(f"<section><div>{problem}{shaded_text(answer, shading, bounds, names)}</div></section>")
    waiting = cells or ['<section><div class="ss-waiting">...</div></section>'] * len(request.edits)
    said = f'<p class="ss-said" dir="auto">{escape(turn.user)}</p>'
    legend = shading_legend(shading, bounds) if turn.answers else ""
    return f"{said}{columns_html(waiting)}{legend}"


def _figures_html(turn: Turn, request: Request) -> str:
    """The figures of both answers."""
    tables = [
        figure_table((term, format_number(own[figure]), False) for figure, term, _ in FIGURES) for own in turn.figures
    ]
    return (
        columns_html(f"<section><div>{table}</div></section>" for table in tables)
        + f'<p class="ss-proof">seed {turn.seed} · {COLUMNS[request.edits[-1]]}</p>'
    )


def _below(session: ChatSession, store: Store) -> None:
    """What the steering does in words, and what can be taken away."""
    if session.ways is not None:
        notes = dict.fromkeys(note for column in session.ways.columns if column.way for note in column.way.notes)
        names = neuron_names(store)
        st.caption("  \n".join(with_names(note, names) for note in notes))
    with st.container(horizontal=True):
        if st.button("Collect", help="Adds every answer, with its figures, to Compare and export"):
            collect(_rows(session), "text")
        st.button("New conversation", on_click=_forget, help="The turns so far are forgotten")
        link_button("A link carries the settings, not the turns.")


def _rows(session: ChatSession) -> list[dict[str, Any]]:
    """One row per answer, to collect; undefined figures are left out."""
    rows = []
    for turn_number, (turn, request) in enumerate(zip(session.chat.turns, session.requests, strict=True), start=1):
        for edit, answer, figures in zip(request.edits, turn.answers, turn.figures, strict=True):
            steering = {**asdict(request.steering), "alphas": format_alphas(request.steering.alphas)}
            rows.append(
                {
                    "kind": "text",
                    "setup": request.setup.name,
                    "topic": request.topic.title,
                    "edit": edit,
                    "prompt": turn.user,
                    "text": answer.text,
                    "turn": turn_number,
                    **{name: value for name, value in figures.items() if math.isfinite(value)},
                    **asdict(request.generation),
                    **steering,
                    "seed": turn.seed,
                }
            )
    return rows
