"""The neurons that fire most evenly on prompts near the topic and far from it: Topic Alignment paper, Table 1."""

from html import escape

import numpy as np
import pandas as pd
import streamlit as st

from core.store.prompt_weights import ends
from pages.parts.topic.shown import Shown
from pages.shared.glossary.index import help_text
from pages.shared.names import neuron_link, neuron_names

SHOWN = 5


def strongest_at_the_ends(rows: pd.DataFrame, near: np.ndarray, far: np.ndarray) -> tuple[str, str]:
    """The text of the neuron's strongest prompt in the quarter nearest to the topic, and in the farthest.

    Args:
        rows: of `Store.neuron_rows`.
        near, far: which prompts belong to which, see `core.store.prompt_weights.ends`.
    """
    ordered = rows.sort_values("max", ascending=False, kind="stable")
    texts = (ordered.loc[at[ordered["prompt"]], "text"].head(1).tolist() for at in (near, far))
    first, second = (text[0] if text else "" for text in texts)
    return first, second


def show_polysemantic(shown: Shown) -> None:
    """Lists the neurons that stand out most on near and far prompts alike, with a prompt of each."""
    if shown.cases is None:
        return
    top = shown.cases.nlargest(SHOWN, "both")
    table, names = shown.scored.scores.table, neuron_names(shown.store)
    near, far = ends(shown.scored.scores.distances)
    with st.expander("Most polysemantic neurons", key="polysemantic", on_change="rerun") as opened:
        if not opened.open:
            return
        n = int((shown.cases["case"] == "polysemantic").sum())
        st.caption(
            f"{n or 'None'} beyond chance. Shares of their activation on the quarter of the prompts nearest to the "
            "topic and on the farthest, with the strongest prompt of each.",
            help=help_text("case"),
        )
        for neuron in top["neuron"].tolist():
            row = table.iloc[neuron]
            texts = strongest_at_the_ends(shown.store.neuron_rows(neuron), near, far)
            prompts = "".join(
                f'<p class="ss-prompt"><b>{share:.0%}</b>{escape(text)}</p>'
                for share, text in zip((row["near"], row["far"]), texts, strict=True)
            )
            st.html(f'<p class="ss-names">{neuron_link(names[neuron])}</p>{prompts}')
