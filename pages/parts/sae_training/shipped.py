"""The SAEs that come with the app, with the figures from their cards."""

import pandas as pd
import streamlit as st

from core.errors import SteerscopeError
from core.results.published import shipped_autoencoders
from pages.shared.charts.methods import ARCHITECTURES, METHODS
from pages.shared.experiments import download_table
from pages.shared.glossary.index import help_text
from pages.shared.messages import show_error

_CARD_FIGURES = (  # column, heading, term, format, pixels
    ("mse_all_log2", "all, log2", "mse", "%.3f", 66),
    ("mse_special_log2", "special, log2", "mse special", "%.3f", 86),
    ("l0", "L0", "l0", "%.1f", 46),
    ("explained_variance", "expl. variance", "explained_variance", "%.3f", 92),
    ("dead_share", "dead", "dead_share", "percent", 54),
    ("ce_recovered", "CE recovered", "ce_recovered", "%.3f", 88),
)


def show_shipped() -> None:
    st.header("SAEs that come with the app", anchor=False)
    try:
        cards = shipped_autoencoders()
    except SteerscopeError as exc:
        show_error(exc)
        return
    if cards.empty:
        st.markdown("None is here.")
        return
    _show_cards(cards)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            "On held-out text, as their cards have it: SAEs of one language model compare, those of two do not. 'all' "
            "leaves special tokens out where the text is plain.",
            width="stretch",
        )
        download_table(cards, "shipped SAEs")


def _show_cards(cards: pd.DataFrame) -> None:
    shown = cards.assign(
        hook_name=cards["hook_name"].map(lambda name: name.rpartition(".")[0], na_action="ignore"),
        method=cards["method"].map(METHODS),
        architecture=cards["architecture"].map(lambda name: ARCHITECTURES.get(name, name)),
    )
    figures = {
        column: st.column_config.NumberColumn(label, format=format, width=width, help=help_text(term))
        for column, label, term, format, width in _CARD_FIGURES
    }
    st.dataframe(
        shown,
        hide_index=True,
        key="training_cards",
        placeholder="n/a",
        column_order=("name", "hook_name", "method", "architecture", "d_sae", "tokens", "duplicates", *figures),
        column_config={
            **figures,
            "name": st.column_config.TextColumn("name", width=160),
            "hook_name": st.column_config.TextColumn("hook point", width=84),
            "method": st.column_config.TextColumn("method", width=58, help="How batches were formed: see above"),
            "architecture": st.column_config.TextColumn("architecture", width=84),
            "d_sae": st.column_config.NumberColumn("neurons", width=62, format="localized", help=help_text("neuron")),
            "tokens": st.column_config.NumberColumn(
                "trained on", width=68, format="compact", help="Activations that it was trained on"
            ),
            "duplicates": st.column_config.NumberColumn(
                "duplicates", width=74, format="localized", help=help_text("duplicates")
            ),
        },
    )
