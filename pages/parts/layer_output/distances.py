"""The part 'Distances' of the Layer output page: whether distances between sentence embeddings separate topics."""

from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.results.published import published
from core.store.reader import Store
from pages.shared.charts.colours import Theme
from pages.shared.charts.figures import CONFIG
from pages.shared.charts.layer import INTER, INTRA, distance_map, intra_inter
from pages.shared.charts.methods import swatches
from pages.shared.experiments import experiment_tables, run_again, table_heading
from pages.shared.glossary.index import help_text
from pages.shared.topics import topic_title

TABLES = ("distances", "distances-pairs", "distances-examples")
_KINDS = {
    ("intra", "nearest"): "Nearest within the topic",
    ("inter", "nearest"): "Nearest across topics",
    ("intra", "farthest"): "Farthest within the topic",
    ("inter", "farthest"): "Farthest across topics",
}


def _bound(key: str) -> dict[str, Any]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": f"distances_{key}", "bind": "query-params"}


def _show_summary(setup: Setup, table: pd.DataFrame) -> None:
    apart = int((table["intra_high"] < table["inter_low"]).sum())
    st.markdown(
        f"Prompts of one topic are closer to each other than to those of the others in **{apart} of {len(table)}** "
        f"topics, with intervals that do not touch. Yet **{table['inter_closer'].median():.0%}** of the pairs across "
        "topics (median) are closer than the topic's farthest pair of its own, as the paper found.",
        help=help_text("inter_closer"),
    )
    table_heading("Within a topic and between topics", "intra", table, setup.name, "topic distances")
    st.html(swatches({"from each other": INTRA, "from the other topics": INTER}))


def _with_published(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the paper's figures, intra and inter as its text has them: the printed columns are exchanged."""
    paper = published("topic_distances").rename(
        columns={"printed_inter": "published_intra", "printed_intra": "published_inter"}
    )
    shown = table.merge(paper[["topic", "published_intra", "published_inter"]], on="topic", how="left")
    return shown.assign(topic=shown["topic"].map(topic_title))


def _show_table(table: pd.DataFrame) -> None:
    def number(label: str, term: str, format: str = "%.3f") -> Any:
        return st.column_config.NumberColumn(label, format=format, help=help_text(term))

    shares = ["inter_closer", "nearest_own"]
    shown = _with_published(table)
    shown[shares] *= 100
    st.dataframe(
        shown,
        hide_index=True,
        key="distances_table",
        height=38 + 35 * len(table),
        placeholder="",
        column_order=("topic", "intra", "inter", "inter_closer", "nearest_own", "published_intra", "published_inter"),
        column_config={
            "topic": st.column_config.TextColumn("topic", help=help_text("topic")),
            "intra": number("within", "intra"),
            "inter": number("from others", "inter"),
            "inter_closer": number("closer than farthest", "inter_closer", "%.0f%%"),
            "nearest_own": number("nearest is own", "nearest_own", "%.0f%%"),
            "published_intra": number("paper: within", "intra"),
            "published_inter": number("paper: from others", "inter"),
        },
    )
    st.caption(
        "The paper's figures (Table 5) are of other prompts under the same names, 20 each; its printed columns are "
        "exchanged, and stand here as its text has them."
    )


def _pair(row: Any) -> str:
    def line(topic: str, prompt: str) -> str:
        return f"<small>{escape(topic_title(topic))}</small><br>{escape(prompt)}"

    both = f"{line(row.topic, row.prompt)}<br>{line(row.other, row.other_prompt)}"
    return f'<p class="ss-prompt"><b>{row.distance:.2f}</b>{both}</p>'


def _show_examples(setup: Setup, examples: pd.DataFrame) -> None:
    table_heading("Pairs to read", "distance", examples, setup.name, "distance examples")
    topic = st.selectbox(
        "Topic",
        examples["topic"].unique().tolist(),
        format_func=topic_title,
        width=280,
        help="Whose pairs of prompts are shown; no prompt stands in two pairs of a list",
        **_bound("topic"),
    )
    mine = examples[examples["topic"] == topic]
    columns = st.columns(2, gap="medium")
    for place, ((kind, end), title) in enumerate(_KINDS.items()):
        with columns[place % 2]:
            rows = mine[(mine["kind"] == kind) & (mine["end"] == end)]
            st.markdown(f"**{title}**")
            st.html("".join(_pair(row) for row in rows.itertuples()) or "none")


def show_distances(setup: Setup, store: Store) -> None:
    """Tables 5 and 6 of the Topic Alignment paper for the bundled topics."""
    st.header("Do distances between prompts tell topics apart?", anchor=False)
    about = "It embeds the bundled topics' prompts, in some seconds once the models are loaded."
    tables = experiment_tables(setup, store, "distances", TABLES, about)
    summary, pairs = tables["distances"], tables["distances-pairs"]
    among = st.segmented_control(
        "Among",
        summary["among"].unique().tolist(),
        default=summary["among"].iloc[0],
        required=True,
        help="Which topics count as the others. The paper compares reviews of products, of restaurants, of films, and "
        "encyclopedia articles.",
        **_bound("among"),
    )
    table = summary[summary["among"] == among]
    titles = {name: topic_title(name) for name in pairs["topic"]}
    theme: Theme = "dark" if st.context.theme.type == "dark" else "light"
    _show_summary(setup, table)
    left, right = st.columns(2, gap="medium")
    with left:
        st.plotly_chart(intra_inter(table, titles), config=CONFIG, key="distances_ends")
    with right:
        among_these = pairs["topic"].isin(table["topic"]) & pairs["other"].isin(table["topic"])
        st.plotly_chart(distance_map(pairs[among_these], titles, theme), config=CONFIG, key="distances_map")
    st.caption("Left: bars are 95% intervals over prompts. Right: mean distance of each two topics.")
    _show_table(table)
    _show_examples(setup, tables["distances-examples"])
    run_again(setup, store, "distances")
