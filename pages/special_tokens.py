"""The Special tokens page: the chat template's neurons, answers with one neuron amplified, and alpha sweeps."""

import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.results.published import published
from core.store.reader import Store
from core.sweep.request import AUTO, SweepSettings, check_neuron, parse_alphas, random_neuron
from pages.parts.special_tokens.answering import NEW_TOKENS, ask_and_answer, bound, model_ready, session_answers
from pages.parts.special_tokens.sweep_results import show_sweeps
from pages.parts.special_tokens.sweeps import parse_neurons, run_sweeps, saved_sweeps, sweep_command
from pages.parts.special_tokens.template_tokens import (
    choose_neuron,
    published_tokens,
    show_what_it_fires_on,
    token_table,
)
from pages.shared.entry import enter
from pages.shared.experiments import download_table, experiment_tables, run_again
from pages.shared.glossary.index import help_text
from pages.shared.messages import count, plain, show_error
from pages.shared.names import neuron_names
from pages.shared.resources import saved_result, setups
from pages.shared.setups import chosen_setup, open_chosen_store

STRONGEST = "Strongest neurons of the template's tokens"
_CHAT_SETUP = "chat setup"  # key of the choice that replaces a base setup


# ---- sweeps ----


def _sweep_controls(setup: Setup, store: Store, neuron: int) -> tuple[list[int], int | None]:
    """The other neurons and the random control (None if off); runs the sweeps when asked to."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        alphas = st.text_input("Alphas", AUTO, width=150, help=help_text("alphas"), **bound("alphas"))
        typed = st.text_input(
            "Other neurons", width=170, placeholder="such as 12, 500", help=help_text("compared"), **bound("others")
        )
        control = st.toggle("Random control", value=True, help=help_text("control neuron"), **bound("control"))
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
    seconds = list(session_answers().seconds.values())
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
    mine, paper = st.container(), st.container()
    with paper:
        st.markdown("**Published**", help=help_text("mean max"))
        published_tokens(published("fast_special_tokens"), published("fast_alpha"))
    with mine:  # last, as it ends the run of the page where nothing is computed yet
        st.markdown(f"**This setup: {plain(setup.name)}**", help=help_text("mean max"))
        about = "It runs 1,000 dialogues through the model: some minutes for the embedded one."
        table = experiment_tables(setup, store, "special", ("special",), about)["special"]
        st.html(token_table(table, neuron_names(store)))
        st.caption("Largest activation on the token in a dialogue, mean over dialogues; the five strongest.")
        with st.container(horizontal=True):
            download_table(table, setup.name, "special tokens")
            run_again(setup, store, "special")


def _amplify(setup: Setup, store: Store) -> None:
    """One neuron: what it fires on, an answer with and without it amplified, and its sweep."""
    neuron = choose_neuron(setup, store, saved_result(setup.name, "special"))
    show_what_it_fires_on(store, neuron)
    sweep = saved_sweeps(setup, [neuron]).get(neuron)
    if sweep is None and not model_ready(setup):
        return
    ask_and_answer(setup, store, neuron, sweep)
    st.header("Over a range of alphas", anchor=False)
    others, drawn = _sweep_controls(setup, store, neuron)
    show_sweeps(setup, neuron, others, drawn, neuron_names(store))


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
