"""Asking one question with one neuron amplified: the question, the alpha, and both answers side by side."""

from typing import Any

import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.store.reader import Store
from core.text.prompts import questions
from pages.parts.special_tokens.amplified import Answers, Asked, answers_html
from pages.parts.special_tokens.sweeps import SavedSweep, largest_alpha
from pages.shared.collecting import collect
from pages.shared.glossary.index import help_text
from pages.shared.links import link_button
from pages.shared.messages import plain, show_error
from pages.shared.names import neuron_names
from pages.shared.pacing import paced

NEW_TOKENS = 64
AUTO_S = 3.0  # answers that take longer are only written on a button
_START = 1 / 8  # of the slider's range: a quarter of the residual stream's mean norm
_START_AT = 2  # of the swept alphas


def bound(key: str) -> dict[str, Any]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": key, "bind": "query-params"}


def session_answers() -> Answers:
    """The answers that this session has seen."""
    kept: Answers = st.session_state.setdefault("amplified", Answers())
    return kept


def model_ready(setup: Setup) -> bool:
    """Whether the model may be loaded: an embedded one at once, others when the button was pressed."""
    if setup.origin == "embedded" or st.session_state.get(f"ready {setup.name}"):
        return True
    st.markdown("The language model is not loaded yet. Answers, and how far alpha may go, need it.")
    if st.button("Load the model", type="primary", help="Seconds for a small model, minutes for a large one; once"):
        st.session_state[f"ready {setup.name}"] = True
        st.rerun()
    return False


@st.fragment
def ask_and_answer(setup: Setup, store: Store, neuron: int, sweep: SavedSweep | None) -> None:
    """Question, alpha and answers; a fragment, so that moving alpha draws nothing else on the page anew."""
    try:
        asked = _ask(setup, store, neuron, sweep)
        _show_answers(asked, store, sweep)
    except SteerscopeError as exc:
        show_error(exc)


def _alpha_slider(setup: Setup, store: Store, neuron: int, sweep: SavedSweep | None) -> float:
    """Alpha: one that was swept, whose answers are known, or any, which the model answers anew."""
    swept = [] if sweep is None else sweep.means["alpha"].tolist()
    linked = "alpha" in st.query_params
    if len(swept) > 1 and not st.toggle("Any alpha", linked, help=help_text("any alpha"), **bound("any_alpha")):
        known = {f"{alpha:g}": float(alpha) for alpha in swept}
        start = list(known)[min(_START_AT, len(known) - 1)]
        return known[st.select_slider("Alpha", list(known), start, help=help_text("alpha"), **bound("swept"))]
    most = largest_alpha(setup, store, neuron)
    alpha: float = st.slider(
        "Alpha",
        0.0,
        most,
        float(f"{most * _START:.3g}"),
        step=float(f"{most / 200:.1g}"),
        format="%.4g",
        help=help_text("alpha"),
        **bound("alpha"),
    )
    st.caption(f"Adds {2 * alpha / most:.0%} of the residual stream's mean norm at every token.")
    return alpha


def _ask(setup: Setup, store: Store, neuron: int, sweep: SavedSweep | None) -> Asked:
    """The question and alpha that the controls ask for."""
    known = questions()
    left, right = st.columns(2, gap="medium")
    with left:
        number = st.pills(
            "Question",
            [str(i) for i in range(1, len(known) + 1)],
            default="1",
            required=True,
            help="Ten questions of different kinds, answered word by word with the likeliest token",
            **bound("question"),
        )
        own = st.text_input(
            "Or a question of your own", placeholder="Enter asks it in place of the ten", **bound("ask")
        ).strip()
    with right:
        alpha = _alpha_slider(setup, store, neuron, sweep)
    question = own or known[int(number) - 1]
    st.markdown(f"**{plain(question)}**")
    return Asked(
        setup=setup,
        fingerprint=store.meta["fingerprint"],
        neuron=neuron,
        alpha=alpha,
        question=question,
        max_new_tokens=NEW_TOKENS,
    )


def _show_answers(asked: Asked, store: Store, sweep: SavedSweep | None) -> None:
    """Both answers, saved or written now. Stop, or any other use of this part, keeps the text so far."""
    answers, names = session_answers(), neuron_names(store)
    if sweep is not None:
        answers.take_saved(asked, sweep.rows)
    place = st.html(answers_html(asked, answers, names))  # an empty place would show for a moment
    below = st.empty()
    if not answers.complete(asked):
        with below.container(horizontal=True, vertical_alignment="center"):
            if not _wanted(answers.seconds.get(asked.setup, 0.0)):
                return
        for _ in paced(answers.run(asked, store)):
            place.html(answers_html(asked, answers, names))
        place.html(answers_html(asked, answers, names))
    answers.settle(asked)
    with below.container(horizontal=True, vertical_alignment="center"):
        _take_away(asked, answers)


def _wanted(last: float) -> bool:
    """Whether to write now: by itself where an answer took little time before, else when the button was pressed.

    Args:
        last: seconds that an answer took; 0: not known.
    """
    stopped = st.session_state.pop("answer stopped", False)
    pressed = st.button("Answer", type="primary", help="Writes what is missing")
    st.button("Stop", key="stop answer", on_click=_on_stop, help="Keeps what has been written")
    if pressed or (last <= AUTO_S and not stopped):
        return True
    st.caption(f"About {last:.0f} s." if last else "Stopped.")
    return False


def _on_stop() -> None:
    st.session_state["answer stopped"] = True


def _take_away(asked: Asked, answers: Answers) -> None:
    assert asked.neuron is not None
    if st.button("Collect", help="Adds these answers, with their figures, to Compare and export"):
        rows = [answers.row(one, asked.neuron) for one in asked.due]
        collect(rows, "answer")
    link_button()
    st.caption(f"Greedy decoding, at most {NEW_TOKENS} tokens. Shaded: words that differ.")
