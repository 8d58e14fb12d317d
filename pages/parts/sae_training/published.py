"""The errors that the FAST paper published, filtered and drawn."""

import pandas as pd
import streamlit as st

from core.results.published import published
from pages.parts.sae_training.controls import bound
from pages.shared.charts import figures as charts
from pages.shared.charts import training
from pages.shared.charts.methods import ARCHITECTURES, METHODS, method_swatches
from pages.shared.experiments import download_table
from pages.shared.glossary.index import help_text
from pages.shared.messages import count, plain

PAPER = (
    "From *Training Superior Sparse Autoencoders for Instruct Models*, arXiv:2506.07691, tables D.2 to D.7: published "
    "figures, none measured here. How the MSE was transformed is lost in the text; log2 is our reading."
)
_LAYERS_WIDTH = 170  # pixels: two side by side on a phone
_TOKENS = {"special": "special tokens", "all": "all tokens"}


def _filter_published(table: pd.DataFrame) -> tuple[pd.DataFrame, str, str]:
    """The rows that pass the filters, with the chosen architecture and kind of tokens.

    Each filter offers only what the filters before it leave, so some rows always remain.
    """
    with st.container(horizontal=True, gap="medium"):
        for name, title, width in (("model", "Model", 400), ("layer", "Layer", 180), ("expansion", "Expansion", 140)):
            chosen = st.multiselect(
                title,
                sorted(table[name].unique().tolist()),
                placeholder="all",
                help="Only SAEs with one of these; none chosen: all",
                width=width,
                **bound(f"paper_{name}"),
            )
            if chosen:
                table = table[table[name].isin(chosen)]
        architecture = st.segmented_control(
            "Architecture",
            ["standard", "jumprelu"],
            default="jumprelu",
            required=True,
            format_func=lambda name: ARCHITECTURES[name],
            help="The paper trained both",
            **bound("paper_architecture"),
        )
        tokens = st.segmented_control(
            "Error over",
            list(_TOKENS),
            default="special",
            required=True,
            format_func=lambda name: _TOKENS[name],
            help=help_text("special tokens"),
            **bound("paper_tokens"),
        )
    return table[(table["architecture"] == architecture) & (table["tokens"] == tokens)], architecture, tokens


def _show_layers(rows: pd.DataFrame) -> None:
    """One small plot per model, all with the same axis."""
    edge = 0.05 * (rows["log2_mse"].max() - rows["log2_mse"].min()) + 0.1
    low, high = rows["log2_mse"].min() - edge, rows["log2_mse"].max() + edge
    st.html(method_swatches("solid x8, dotted x16 · log2 MSE by layer, lower is better"))
    with st.container(horizontal=True, gap="small"):
        for model in dict.fromkeys(rows["model"]):
            with st.container(width=_LAYERS_WIDTH, gap=None):
                st.caption(plain(model))
                picture = training.published_layers(rows[rows["model"] == model], low, high)
                st.plotly_chart(picture, config=charts.CONFIG, key=f"training_layers_{model}")


def show_published() -> None:
    st.header("Published by the paper", anchor=False)
    st.markdown(PAPER)
    rows, architecture, tokens = _filter_published(published("fast_mse"))
    _show_layers(rows)
    table = rows.pivot(
        index=["table", "model", "layer", "expansion"], columns="method", values="log2_mse"
    ).reset_index()
    best = (table["fast"] < table[["btp", "btf"]].min(axis=1)).sum()
    st.markdown(
        f"**Published log2 MSE, {ARCHITECTURES[architecture]}, {_TOKENS[tokens]}**: FAST has the lowest in "
        f"{best} of {count(len(table), 'row')}.",
        help=help_text("mse"),
    )
    table["gain"] = table[["btp", "btf"]].min(axis=1) - table["fast"]
    methods = {
        method: st.column_config.NumberColumn(title, format="%.4f", help=help_text(method))
        for method, title in METHODS.items()
    }
    st.dataframe(
        table,
        hide_index=True,
        key="training_published",
        column_order=("model", "layer", "expansion", *methods, "gain", "table"),
        column_config={
            **methods,
            "expansion": st.column_config.NumberColumn("expansion", format="x%d"),
            "gain": st.column_config.NumberColumn(
                "better BT - FAST", format="%.4f", help="Above 0: FAST has the lower error; 1 is half the error"
            ),
        },
    )
    download_table(table, "published", architecture, tokens)
