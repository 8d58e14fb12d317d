"""The contexts of a neuron as a rater sees them, and which neurons are drawn."""

import streamlit as st

from core.interpretability.contexts import (
    N_NEURONS,
    NeuronContexts,
    contexts_from_store,
    drawn_from_store,
    saved_contexts,
    shown_part,
)
from core.store.reader import Store
from pages.parts.interpretability.rated import rating_store
from pages.shared.glossary.index import help_text
from pages.shared.tokens import Shaded, legend, token_spans

SEED = 0  # as of the command


@st.cache_data(max_entries=16, show_spinner=False)
def _drawn(fingerprint: str, n: int, _store: Store) -> list[int]:
    return drawn_from_store(_store, n, SEED)


def drawn(store: Store, n: int = N_NEURONS) -> list[int]:
    """The neurons that the command draws from the store with its own settings.

    Raises:
        UsageError: none fires on five reference prompts.
    """
    return _drawn(store.meta["fingerprint"], n, store)


def contexts(store: Store, neuron: int, source: str) -> NeuronContexts:
    """A neuron's contexts from that source; from the store where the source has none of it."""
    saved = {(shown.neuron, shown.source): shown for shown in saved_contexts(rating_store(), store.meta["name"])}
    return saved.get((neuron, source)) or contexts_from_store(store, neuron)


def show_contexts(shown: NeuronContexts) -> None:
    """The part of each text that a rater sees, its tokens shaded by activation."""
    largest = max((context.max for context in shown.contexts), default=0.0)
    paragraphs = [legend("0", f"{largest:.3g}", "activation")]
    for context in shown.contexts:
        pairs = zip(*shown_part(context), strict=True)
        tokens = [Shaded(token, a, f"activation {a:.3g}" if a else "") for token, a in pairs]
        paragraphs.append(token_spans(tokens, largest))
    st.html("".join(paragraphs))


def heading(title: str) -> None:
    st.markdown(f"**{title}**", help=help_text("contexts"))
