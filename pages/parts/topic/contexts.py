"""Where the open neuron fires: its strongest contexts, and some of weaker activation, token by token."""

from html import escape

import numpy as np
import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.store.reader import Store
from pages.parts.topic.neuron import OpenNeuron
from pages.parts.topic.output import activated, shaded, wants_model
from pages.shared.glossary.index import help_text
from pages.shared.messages import show_error
from pages.shared.tokens import legend, token_spans

STRONGEST = 5  # of the stored contexts, shown
RANGES = ((0.5, 0.75), (0.25, 0.5), (0.0, 0.25))  # of the neuron's largest activation, below the strongest contexts
IN_RANGE = 2  # prompts shown of each


def in_ranges(rows: pd.DataFrame, largest: float) -> list[tuple[str, pd.DataFrame]]:
    """Prompts of weaker activation: a title for each of RANGES, and up to IN_RANGE rows spaced evenly by activation.

    Args:
        rows: of `Store.neuron_rows`.
    """
    found = []
    for low, high in RANGES:
        inside = rows[(rows["max"] >= low * largest) & (rows["max"] < high * largest)]
        ordered = inside.sort_values(["max", "prompt"], ascending=[False, True], kind="stable")
        n = min(IN_RANGE, len(ordered))
        places = ((np.arange(n) + 0.5) * len(ordered) / max(1, n)).astype(int)
        title = f"{low:.0%} to {high:.0%} of its largest activation: {len(inside):,} of {len(rows):,} prompts"
        found.append((title, ordered.iloc[places]))
    return found


def show_contexts(setup: Setup, store: Store, neuron: OpenNeuron) -> None:
    """Shows the prompts with its highest activations, shaded, and some from each lower range of activation."""
    contexts, largest = store.contexts(neuron.number), float(neuron.known["max"])
    if not contexts:
        return
    st.markdown(f"**Contexts of neuron {neuron.number:,}**", help=help_text("contexts"))
    paragraphs = [legend("0", f"{largest:.3g}", "activation")]
    for context in contexts[:STRONGEST]:
        pairs = zip(context.tokens, context.activations.tolist(), strict=True)
        paragraphs.append(token_spans([activated(token, a) for token, a in pairs], largest))
    st.html("".join(paragraphs))
    _show_weaker(setup, store, neuron.number, largest)


def _show_weaker(setup: Setup, store: Store, number: int, largest: float) -> None:
    ranges = [(title, rows) for title, rows in in_ranges(store.neuron_rows(number), largest) if len(rows)]
    texts = tuple(text for _, rows in ranges for text in rows["text"])
    tokens = []
    if wants_model(setup):
        try:
            tokens = shaded(setup, texts, number, store)
        except SteerscopeError as exc:
            show_error(exc)
    shown = [token_spans(one, largest) for one in tokens] or [
        f'<p class="ss-text">{escape(text)}</p>' for text in texts
    ]
    for title, rows in ranges:
        st.caption(title)
        st.html("".join(shown[: len(rows)]))
        shown = shown[len(rows) :]
    if ranges and not tokens:
        st.caption("These are shaded once the language model is loaded: Measure with the model.")
