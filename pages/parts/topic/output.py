"""What a neuron makes the model write: its output score, similar neurons, and figures that need the language model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st
from jaxtyping import Float64

from core.catalog import Setup
from core.results.names import Names
from core.store.reader import Store
from core.text.prompts import Topic
from pages.shared.experiments import experiment_command, run_experiment
from pages.shared.glossary.index import help_text, term_link
from pages.shared.messages import plain
from pages.shared.resources import saved_result, workbench
from pages.shared.tokens import Shaded

if TYPE_CHECKING:  # imports torch
    from core.evaluation.output_score import TopicGains

COST = (
    "Every neuron is added to 8 openings: some ten minutes for the embedded setup on two cores, hours for large ones."
)


def saved_output(setup: Setup, store: Store) -> pd.DataFrame | None:
    """The setup's output scores: neuron, output_score, output_rank, nearest, cosine; None if there are none.

    A table of another SAE, saved before the store was rebuilt, counts as none.

    Raises:
        StoreBusyError, StoreDamagedError: see `AppStore`.
    """
    table = saved_result(setup.name, "output")
    if table is None or not table["neuron"].between(0, store.d_sae - 1).all():
        return None
    return table.rename(columns={"rank": "output_rank"})


def output_of(output: pd.DataFrame | None, neuron: int) -> pd.Series | None:
    """The neuron's row of the output scores; None if it has none."""
    found = None if output is None else output[output["neuron"] == neuron]
    return None if found is None or found.empty else found.iloc[0]


def output_facts(output: pd.DataFrame | None, neuron: int) -> dict[str, str]:
    """The neuron's output score as a fact to list: HTML by glossary term, empty if it has none."""
    row = output_of(output, neuron)
    if output is None or row is None:
        return {}
    return {"output score": f"{row['output_score']:.2g} <small>rank {row['output_rank']:,} of {len(output):,}</small>"}


def offer_output(setup: Setup, store: Store) -> None:
    """Offers to compute the output scores of all neurons."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("No output scores yet.", help=help_text("output score"), width="content")
        pressed = st.button("Compute output scores", help=f"{COST} As a command: {experiment_command(setup, 'output')}")
    if pressed:
        run_experiment(setup, store, "output")


def _open(neuron: int) -> None:
    st.session_state["neuron"] = neuron


def show_similar(output: pd.DataFrame | None, neuron: int, names: Names) -> None:
    """Shows the neurons whose decoder rows point the same way; a click opens one."""
    row = output_of(output, neuron)
    if row is None:
        return
    st.markdown("**Similar neurons**", help=help_text("similar"))
    with st.container(horizontal=True, gap="small"):
        for number, cosine in zip(row["nearest"], row["cosine"], strict=True):
            st.button(
                f"{plain(str(names[number]))} ({cosine:.2f})",
                key=f"similar {number}",
                on_click=_open,
                args=(number,),
                type="tertiary",
                help=f"Opens neuron {number}; cosine {cosine:.3f}",
            )


# ---- what takes the language model ----


@dataclass(frozen=True)
class Measured:
    """Figures of neurons for one topic that need the language model."""

    gains: "TopicGains"  # of the listed neurons
    strawman: Float64[np.ndarray, "d_sae"]  # share of the topic's own tokens on which each neuron fires


@st.cache_resource(max_entries=16, show_spinner="Running the language model ...")
def _measured(setup: Setup, built_at: str, topic: Topic, neurons: tuple[int, ...], _store: Store) -> Measured:
    from core.build.activations import token_activations
    from core.evaluation.output_score import topic_gains
    from core.scoring.scores import strawman

    bench = workbench(setup, _store)
    active = token_activations(bench.model, bench.sae, topic.prompts, max_length=bench.model.n_context)
    return Measured(topic_gains(bench, topic, neurons), strawman(active, bench.sae.d_sae))


def measured(setup: Setup, store: Store, topic: Topic, neurons: tuple[int, ...]) -> Measured | None:
    """The model's figures of these neurons for the topic; None until the user has asked for them.

    Raises:
        SteerscopeError: the setup cannot be loaded, or no token of the model spells a word of the topic.
    """
    if not wants_model(setup):
        return None
    return _measured(setup, store.meta["built_at"], topic, neurons, store)


@st.cache_resource(max_entries=32, show_spinner="Running the contexts through the model ...")
def shaded(setup: Setup, texts: tuple[str, ...], neuron: int, _store: Store) -> list[list[Shaded]]:
    """The tokens of these texts, each shaded by the neuron's activation on it.

    Raises:
        SteerscopeError: the setup cannot be loaded.
    """
    from core.build.activations import token_activations

    bench = workbench(setup, _store)
    found: dict[int, list[Shaded]] = {}
    for batch in token_activations(bench.model, bench.sae, texts, max_length=bench.model.n_context):
        mine = batch.neuron == neuron
        places = zip(batch.prompt[mine].tolist(), batch.position[mine].tolist(), strict=True)
        values = dict(zip(places, batch.activation[mine].tolist(), strict=True))
        for prompt, tokens in zip(batch.prompts.tolist(), batch.tokens, strict=True):
            found[prompt] = [activated(token, values.get((prompt, i), 0.0)) for i, token in enumerate(tokens)]
    return [found[prompt] for prompt in range(len(texts))]


def activated(token: str, activation: float) -> Shaded:
    """A token shaded by a neuron's activation on it."""
    return Shaded(token, activation, f"activation {activation:.3g}" if activation else "")


def wants_model(setup: Setup) -> bool:
    """Whether the user has asked to run the model on this setup."""
    return bool(st.session_state.get("topic_measured") == setup.name)


def _measure(setup_name: str) -> None:
    st.session_state["topic_measured"] = setup_name


def offer_measuring(setup: Setup) -> None:
    """Offers to run the model on the topic."""
    st.markdown("**With the language model**", help=help_text("topic gain"))
    st.button(
        "Measure with the model",
        on_click=_measure,
        args=(setup.name,),
        help="Loads the language model and the SAE, then takes a second a topic: what the topic's words gain from each "
        "listed neuron, on how many of the topic's own tokens each fires (the strawman, a column of the ranking), and "
        "the shading of all contexts.",
    )


def show_measured(found: Measured, neuron: int) -> None:
    """Shows the figures of one neuron that need the language model."""
    gains, share = found.gains.table, found.strawman
    st.markdown("**With the language model**", help=help_text("topic gain"))
    rank = f", rank {int((share > share[neuron]).sum()) + 1:,}" if share[neuron] else ""  # all others tie at 0
    facts = {"strawman": ("fires on", f"{share[neuron]:.1%} <small>of the topic's own tokens{rank}</small>")}
    mine = gains[gains["neuron"] == neuron]
    if len(mine):
        gain, place = mine.iloc[0][["topic_gain", "topic_rank"]]
        shown = f"{100 * gain:+.2g} <small>% points, rank {place:,.0f} of {len(gains):,} listed</small>"
        facts = {"topic gain": ("topic's words gain", shown), **facts}
    cells = "".join(
        f"<div><dt>{term_link(term, label)}</dt><dd>{shown}</dd></div>" for term, (label, shown) in facts.items()
    )
    st.html(f'<dl class="ss-facts">{cells}</dl>')
    st.caption(plain(f"The topic's words: {', '.join(found.gains.words)}."))
