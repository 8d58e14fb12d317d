"""The Topic page: the neurons ranked for a topic, and one of them in detail."""

from html import escape

import numpy as np
import streamlit as st

from core.errors import NeuronRangeError, SteerscopeError
from core.store.reader import Store
from pages.parts.topic.contexts import show_contexts
from pages.parts.topic.label import show_name
from pages.parts.topic.neuron import (
    choose_neuron,
    collect_button,
    open_neuron,
    show_figures,
    show_groups,
    show_histogram,
    show_ranks,
    show_summaries,
    show_tokens,
)
from pages.parts.topic.output import (
    measured,
    offer_measuring,
    offer_output,
    output_facts,
    output_of,
    saved_output,
    show_measured,
    show_similar,
)
from pages.parts.topic.polysemantic import show_polysemantic
from pages.parts.topic.shown import SHOWN_NEURONS, Shown
from pages.parts.topic.table import show_ranking
from pages.parts.topic.verdict import measure, show_verdict
from pages.shared.charts import figures as charts
from pages.shared.entry import enter
from pages.shared.glossary.index import help_text
from pages.shared.messages import show_error
from pages.shared.names import neuron_names
from pages.shared.resources import ScoredIn, known_cases, score
from pages.shared.setups import open_chosen_store
from pages.shared.topics import chosen_topic, score_settings, topic_controls

SHOWN_PROMPTS = 5  # at either end
_LAYOUT = (3, 2)  # widths of the ranking and the neuron


def _show_distribution(store: Store, scored: ScoredIn, neuron: int) -> None:
    scores = scored.scores.table["score"]
    marked = scores[neuron] if 0 <= neuron < store.d_sae else None
    st.plotly_chart(charts.score_violin(scores.dropna().to_numpy(), marked, neuron), config=charts.CONFIG, key="violin")


def _show_ends(store: Store, scored: ScoredIn) -> None:
    """The reference prompts nearest to the topic, and farthest from it."""
    texts, distances = store.prompts()["text"], scored.scores.distances
    order = np.argsort(distances, kind="stable")
    for label, ids in (("Nearest", order[:SHOWN_PROMPTS]), ("Farthest", order[: -SHOWN_PROMPTS - 1 : -1])):
        st.markdown(f"**{label} reference prompts**", help=help_text("nearest"))
        st.html("".join(f'<p class="ss-prompt"><b>{distances[i]:.2f}</b>{escape(texts[i])}</p>' for i in ids))


def _show_output(shown: Shown, number: int) -> None:
    """What the open neuron makes the model write, as far as it was measured, and buttons to measure the rest."""
    if shown.output is None:
        offer_output(shown.setup, shown.store)
    show_similar(shown.output, number, neuron_names(shown.store))
    if shown.measured is None:
        offer_measuring(shown.setup)
    else:
        show_measured(shown.measured, number)


def _show_neuron(shown: Shown) -> None:
    """The ranking and the open neuron side by side, and below them contexts and prompts."""
    store, scores = shown.store, shown.scored.scores
    left, right = st.columns(_LAYOUT, gap="medium")
    with right:
        header = st.container(horizontal=True, vertical_alignment="bottom")
    with header:
        number = choose_neuron(store, int(scores.ranked(1)["neuron"][0]))
    with left:
        show_ranking(shown, number)
        _show_distribution(store, shown.scored, number)
    try:
        neuron = open_neuron(store, scores, number, shown.case_of)
    except NeuronRangeError as exc:
        with right:
            show_error(exc)
        return
    writes = output_of(shown.output, number)
    with header:
        collect_button(shown.setup, shown.topic, neuron, None if writes is None else float(writes["output_score"]))
    with left:
        show_histogram(neuron)
        show_ranks(shown.setup, store, shown.topic, scores.settings, neuron)
    with right:
        show_name(shown.setup, store, number)
        show_figures(neuron, scores.settings.min_prompts, output_facts(shown.output, number))
        show_summaries(store, scores, neuron)
        show_tokens(neuron)
        _show_output(shown, number)
    left, right = st.columns(_LAYOUT, gap="medium")
    with left:
        show_contexts(shown.setup, store, neuron)
    with right:
        show_groups(store, neuron)
        _show_ends(store, shown.scored)


def _shown() -> Shown:
    """Scores the chosen topic, and gathers what else is known.

    Raises:
        SteerscopeError: the topic cannot be scored, or what was saved cannot be read.
    """
    setup, store = open_chosen_store()
    topic_controls()
    topic = chosen_topic()
    scored = score(setup, store, topic, score_settings())
    listed, found = scored.scores.ranked(SHOWN_NEURONS)["neuron"].tolist(), None
    if (opened := st.session_state.get("neuron")) in range(store.d_sae):
        listed.append(opened)
    try:
        found = measured(setup, store, topic, tuple(dict.fromkeys(listed)))
    except SteerscopeError as exc:
        show_error(exc)
    return Shown(setup, store, topic, scored, known_cases(store, topic, scored), saved_output(setup, store), found)


def main() -> None:
    enter("What carries this topic?")
    try:
        shown = _shown()
    except SteerscopeError as exc:
        show_error(exc)
        return
    place = show_verdict(shown)
    _show_neuron(shown)
    show_polysemantic(shown)
    if shown.cases is None:  # last: the page can be read meanwhile
        measure(shown, place)


main()
