"""Top-k curves of one topic on a page: computed on demand, cached for all sessions."""

from typing import TYPE_CHECKING

import streamlit as st

from core.catalog import Setup
from core.settings import ScoreSettings
from core.store.reader import Store
from core.text.prompts import Topic, unaligned_prompts
from pages.shared.resources import score, scored_topic, workbench

if TYPE_CHECKING:  # imports torch
    from core.evaluation.topk import Firing, TopK


@st.cache_resource(max_entries=16, show_spinner="Running the prompts through the model and the SAE ...")
def _firing(setup: Setup, prompts: tuple[str, ...], _store: Store) -> "Firing":
    """Which neurons fire on which tokens of the prompts; depends only on the model and the SAE."""
    from core.evaluation.topk import firing_on

    return firing_on(workbench(setup, _store), prompts)


@st.cache_resource(max_entries=32, show_spinner=False)
def _top_k(setup: Setup, built_at: str, topic: Topic, settings: ScoreSettings, _store: Store) -> "TopK":
    from core.evaluation.topk import top_k

    scored = scored_topic(topic, score(setup, _store, topic, settings))
    aligned, unaligned = (_firing(setup, prompts, _store) for prompts in (topic.prompts, tuple(unaligned_prompts())))
    return top_k(scored, aligned, unaligned, _store.density())


def topic_top_k(setup: Setup, store: Store, topic: Topic, settings: ScoreSettings) -> "TopK":
    """The topic's curves, figures and tokens.

    Raises:
        SteerscopeError: the setup cannot be loaded, or the topic cannot be scored.
    """
    return _top_k(setup, store.meta["built_at"], topic, settings, store)
