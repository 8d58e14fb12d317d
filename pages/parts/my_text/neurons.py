"""The text's neurons: the one that shades it, the table of all, and what can be taken away."""

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.inspection import Inspection
from core.results.names import Names
from core.text.prompts import Topic
from pages.shared.collecting import collect
from pages.shared.downloads import download_buttons
from pages.shared.glossary.index import help_text
from pages.shared.names import NAME_COLUMN, linked

SHOWN = 300


def default_neuron(found: Inspection) -> int:
    """The text's neuron that ranks best for the topic; where none has a rank, the one with the largest sum."""
    ranked = found.neurons.dropna(subset="rank")
    best = found.neurons.iloc[0] if ranked.empty else ranked.loc[ranked["rank"].idxmin()]
    return int(best["neuron"])


def _on_typed() -> None:
    st.session_state["shade_text"] = "neuron"


def choose_neuron(found: Inspection, d_sae: int) -> int:
    """The neuron that shades the text: typed, in the link, clicked in the table, or the default."""
    best = default_neuron(found)
    typed = st.number_input(
        "Neuron",
        value=None,
        step=1,
        key="neuron",
        bind="query-params",
        on_change=_on_typed,
        placeholder=f"{best} (best)",
        help=f"Shades the text. Click one in the table, or type 0 to {d_sae - 1:,}; by default the text's neuron that "
        "ranks best for the topic.",
        width=160,
    )
    return best if typed is None else typed


def _on_select() -> None:
    state = st.session_state
    if cells := state["text_neurons"]["selection"]["cells"]:
        state["neuron"], state["shade_text"] = state["text_listed"][cells[0][0]], "neuron"


def show_neurons(found: Inspection, names: Names, n_scored: int) -> None:
    """The table of the text's neurons; a click on a row shades the text by that neuron."""
    table = found.neurons.head(SHOWN)
    st.session_state["text_listed"] = table["neuron"].tolist()
    st.markdown(f"**{len(found.neurons):,} neurons fire on this text**", help=help_text("text neurons"))
    st.dataframe(
        table.assign(name=linked(names, table["neuron"])),
        hide_index=True,
        height=420,
        key="text_neurons",
        on_select=_on_select,
        selection_mode="single-cell",
        placeholder="",
        column_order=("name", "sum", "max", "tokens", "rank", "score"),
        column_config={
            "name": NAME_COLUMN | {"width": 200},
            "sum": st.column_config.NumberColumn("sum", format="%.3g", help="Of its activations on the text's tokens"),
            "max": st.column_config.NumberColumn("max", format="%.3g", help="Its largest activation on the text"),
            "tokens": st.column_config.NumberColumn("tokens", help="Tokens of the text on which it fires"),
            "rank": st.column_config.NumberColumn(
                "topic rank", format="localized", help=f"For the topic, among {n_scored:,} scored neurons. Empty: rare"
            ),
            "score": st.column_config.NumberColumn("topic score", format="%.3f", help=help_text("score")),
        },
    )
    cut = f"The {SHOWN} with the largest sum; the export has all. " if len(found.neurons) > SHOWN else ""
    st.caption(f"{cut}A click on a row shades the text by its neuron; its name opens its page.")


def export_popover(setup: Setup, found: Inspection, names: Names) -> None:
    """Both tables in every format."""
    neurons = found.neurons.copy()
    neurons.insert(1, "name", [names[n].words for n in neurons["neuron"]])
    with st.popover("Export", help="The neurons of the text, or its tokens, as a table"):
        for title, table in (("Neurons", neurons), ("Tokens", found.tokens)):
            st.markdown(f"**{title}**")
            with st.container(horizontal=True):
                download_buttons(
                    table, setup.name, "text", title, key=f"text_{title}", help="The whole table, all digits in CSV"
                )


def collect_button(setup: Setup, topic: Topic, text: str, found: Inspection, neuron: int, names: Names) -> None:
    """A button that adds the neuron, with its figures on this text, to the collected rows."""
    mine = found.neurons[found.neurons["neuron"] == neuron]
    if not st.button(
        "Collect",
        disabled=mine.empty,
        help="Adds this neuron, with its figures on this text, to Compare and export",
    ):
        return
    row = {
        "kind": "inspected",
        "setup": setup.name,
        "topic": topic.title,
        "neuron": neuron,
        "name": names[neuron].words,
        **{name: value for name, value in mine.iloc[0].items() if name != "neuron" and pd.notna(value)},
        "text": text,
    }
    collect([row], "neuron")
