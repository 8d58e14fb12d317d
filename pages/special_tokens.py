"""The Special tokens page: the chat template's neurons, answers with one neuron amplified, and alpha sweeps."""

from typing import Any

import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.results.published import published
from core.store.reader import Store
from core.sweep.request import AUTO, SweepSettings, check_neuron, parse_alphas, random_neuron
from core.text.prompts import questions
from pages.parts.special_tokens.amplified import Amplified, Asked, amplified_html
from pages.parts.special_tokens.sweep_results import show_sweeps
from pages.parts.special_tokens.sweeps import (
    SavedSweep,
    largest_alpha,
    parse_neurons,
    run_sweeps,
    saved_sweeps,
    sweep_command,
)
from pages.parts.special_tokens.template_tokens import choose_neuron, published_tokens, token_table
from pages.shared.entry import enter
from pages.shared.experiments import download_table, experiment_tables, run_again
from pages.shared.glossary.index import help_text
from pages.shared.links import link_button
from pages.shared.messages import count, plain, show_error
from pages.shared.names import neuron_names
from pages.shared.resources import app_store, setups
from pages.shared.setups import chosen_setup, open_chosen_store

STRONGEST = "Strongest neurons of the template's tokens"
NEW_TOKENS = 64
AUTO_S = 3.0  # answers that take longer are only generated on a button
_START = 1 / 8  # of the slider's range: a quarter of the residual stream's mean norm
_START_AT = 2  # of the swept alphas
_KEPT_ANSWERS = 64
_CHAT_SETUP = "chat setup"  # key of the choice that replaces a base setup


def _bound(key: str) -> dict[str, Any]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": key, "bind": "query-params"}


# ---- one question ----


def _answers() -> dict[Asked, Amplified]:
    """The answers that this session has generated, latest last."""
    kept: dict[Asked, Amplified] = st.session_state.setdefault("amplified", {})
    while len(kept) > _KEPT_ANSWERS:
        del kept[next(iter(kept))]
    return kept


def _ready(setup: Setup) -> bool:
    """Whether the model may be loaded: an embedded one at once, others when the button was pressed."""
    if setup.origin == "embedded" or st.session_state.get(f"ready {setup.name}"):
        return True
    st.markdown("The language model is not loaded yet. Answers, and how far alpha may go, need it.")
    if st.button("Load the model", type="primary", help="Seconds for a small model, minutes for a large one; once"):
        st.session_state[f"ready {setup.name}"] = True
        st.rerun()
    return False


def _alpha_slider(setup: Setup, store: Store, neuron: int, sweep: SavedSweep | None) -> float:
    """Alpha: one that was swept, whose answers are known, or any, which the model answers anew."""
    swept = [] if sweep is None else sweep.means["alpha"].tolist()
    linked = "alpha" in st.query_params
    if len(swept) > 1 and not st.toggle("Any alpha", linked, help=help_text("any alpha"), **_bound("any_alpha")):
        known = {f"{alpha:g}": float(alpha) for alpha in swept}
        start = list(known)[min(_START_AT, len(known) - 1)]
        return known[st.select_slider("Alpha", list(known), start, help=help_text("alpha"), **_bound("swept"))]
    most = largest_alpha(setup.name, store.meta["fingerprint"], neuron, setup, store)
    alpha: float = st.slider(
        "Alpha",
        0.0,
        most,
        float(f"{most * _START:.3g}"),
        step=float(f"{most / 200:.1g}"),
        format="%.4g",
        help=help_text("alpha"),
        **_bound("alpha"),
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
            **_bound("question"),
        )
    with right:
        alpha = _alpha_slider(setup, store, neuron, sweep)
    question = known[int(number) - 1]
    st.markdown(f"**{plain(question)}**")
    return Asked(
        setup=setup,
        fingerprint=store.meta["fingerprint"],
        neuron=neuron,
        alpha=alpha,
        question=question,
        max_new_tokens=NEW_TOKENS,
    )


def _show_answer(asked: Asked, store: Store, sweep: SavedSweep | None) -> None:
    """Both answers, saved or generated now. Stop, or any other use of the page, keeps the text so far."""
    kept = _answers()
    if asked not in kept and sweep is not None and (known := Amplified.of_sweep(asked, sweep.rows)) is not None:
        kept[asked] = known
    last = next((a.seconds for a in reversed(kept.values()) if a.seconds and a.asked.setup == asked.setup), 0)
    place, name = st.empty(), neuron_names(store)[asked.neuron]
    with st.container(horizontal=True, vertical_alignment="center"):
        amplified = kept.get(asked)
        due = amplified is None and last <= AUTO_S
        if amplified is None or amplified.rows is None:
            due |= st.button("Answer", type="primary", help="Both answers, side by side")
            st.button("Stop", key="stop answer", help="Keeps what has been written")
            if amplified is None and not due:
                st.caption(f"About {last:.0f} s.")
        else:
            _take_away(amplified)
    if due:
        amplified = kept[asked] = Amplified(asked)
        for _ in amplified.run(store):
            place.html(amplified_html(amplified, name))
        st.rerun()
    if amplified is not None:
        place.html(amplified_html(amplified, name))


def _take_away(amplified: Amplified) -> None:
    if st.button("Collect", help="Adds these answers, with their figures, to Compare and export"):
        rows = [amplified.row(alpha) for alpha in amplified.asked.alphas]
        for row in rows:
            app_store().collect(row)
        st.toast(f"{count(len(rows), 'answer')} in Compare and export.")
    link_button()
    st.caption(f"Greedy decoding, at most {NEW_TOKENS} tokens. Shaded: words that differ.")


# ---- sweeps ----


def _sweep_controls(setup: Setup, store: Store, neuron: int) -> tuple[list[int], int | None]:
    """The other neurons and the random control (None if off); runs the sweeps when asked to."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        alphas = st.text_input("Alphas", AUTO, width=150, help=help_text("alphas"), **_bound("alphas"))
        typed = st.text_input(
            "Other neurons", width=170, placeholder="such as 12, 500", help=help_text("compared"), **_bound("others")
        )
        control = st.toggle("Random control", value=True, help=help_text("control neuron"), **_bound("control"))
        pressed = st.button("Sweep", type="primary", help="All questions at every alpha; goes on where it was stopped")
    others = [number for number in parse_neurons(typed) if number != neuron]
    for number in others:
        check_neuron(number, store.d_sae)
    drawn = random_neuron(store, exclude=[neuron, *others]) if control else None
    asked = [neuron, *others, *([] if drawn is None else [drawn])]
    settings = SweepSettings(alphas=parse_alphas(alphas), max_new_tokens=NEW_TOKENS)
    with st.container(horizontal=True, vertical_alignment="center"):
        with st.popover("Command", help="The same on the command line"):
            st.code(sweep_command(setup, asked, alphas), language=None, wrap_lines=True)
        _sweep_cost(len(asked), settings)
    if pressed:
        run_sweeps(setup, store, asked, settings)
    return others, drawn


def _sweep_cost(n_neurons: int, settings: SweepSettings) -> None:
    """The expected time of the sweeps, as far as it is known."""
    seconds = [amplified.seconds for amplified in _answers().values() if amplified.seconds]
    n_alphas = 9 if settings.alphas is None else len(settings.alphas)
    parts = [count(len(settings.questions), "question"), f"{n_alphas} alphas", count(n_neurons, "neuron")]
    # an answer at two alphas takes about half as long as one at nine
    about = f": about {max(1, round(2 * seconds[-1] * len(settings.questions) * n_neurons))} s" if seconds else ""
    st.caption(f"{' × '.join(parts)}{about}. Stopped, it goes on where it was; other alphas replace it.")


# ---- the page ----


def _use_chat_setup() -> None:
    st.session_state.update(setup=st.session_state[_CHAT_SETUP], neuron=None)  # its number is another neuron there


def _need_chat(setup: Setup) -> None:
    """Says that a base setup has no chat template, and offers the chat setups."""
    st.markdown(
        f"**{plain(setup.name)}** is a base model: no chat template, and so no special tokens to study or to amplify."
    )
    chat = {name: lacking for name, (other, lacking) in setups().items() if other.has_template}
    ready = [name for name, lacking in chat.items() if not lacking]
    st.selectbox("Chat setup", ready, None, key=_CHAT_SETUP, on_change=_use_chat_setup, width=320)
    if names := [name for name, lacking in chat.items() if lacking]:
        st.caption(plain(f"Chat setups that cannot run here yet: {', '.join(names)}. All setups says what each lacks."))


def _show_template(setup: Setup, store: Store) -> None:
    """The strongest neurons of the template's tokens, in this setup and as published (FAST paper, F.3)."""
    left, right = st.columns(2, gap="medium")
    with right:
        st.markdown("**Published**", help=help_text("mean max"))
        published_tokens(published("fast_special_tokens"), published("fast_alpha"))
    with left:
        st.markdown(f"**This setup: {plain(setup.name)}**", help=help_text("mean max"))
        about = "It runs 1,000 dialogues through the model: some minutes for the embedded one."
        tables = experiment_tables(setup, store, "special", ("special",), about)
        st.html(token_table(tables["special"], neuron_names(store)))
        st.caption(
            "Neuron and value. Largest activation on the token in a dialogue, mean over dialogues; the five strongest."
        )
        with st.container(horizontal=True):
            download_table(tables["special"], setup.name, "special tokens")
            run_again(setup, store, "special")


def _amplify(setup: Setup, store: Store) -> None:
    """One neuron: an answer with and without it amplified, and its sweep."""
    neuron = choose_neuron(setup, store, app_store().result(setup.name, "special"))
    check_neuron(neuron, store.d_sae)
    sweep = saved_sweeps(setup, [neuron]).get(neuron)
    if sweep is None and not _ready(setup):
        return
    asked = _ask(setup, store, neuron, sweep)
    _show_answer(asked, store, sweep)
    st.header("Over a range of alphas", anchor=False)
    others, drawn = _sweep_controls(setup, store, neuron)
    show_sweeps(setup, neuron, others, drawn, asked.alpha, neuron_names(store))


def main() -> None:
    enter("What does amplifying one feature do?")
    chosen, _ = chosen_setup()
    if not chosen.has_template:
        _need_chat(chosen)
        st.header(f"{STRONGEST}, published", anchor=False)
        published_tokens(published("fast_special_tokens"), published("fast_alpha"))
        return
    setup, store = open_chosen_store()
    try:
        _amplify(setup, store)
    except SteerscopeError as exc:
        show_error(exc)
    st.header(STRONGEST, anchor=False)
    _show_template(setup, store)


main()
