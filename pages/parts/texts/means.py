"""The text experiment in pictures: topic against fluency, one figure of every column, and the paired differences."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from core.evaluation.experiments import ALL_TOPICS, PAPER_COLUMNS
from pages.shared.charts.figures import CONFIG
from pages.shared.charts.text import TITLES, interval_dots, topic_plane
from pages.shared.columns import number
from pages.shared.glossary.index import TERMS, help_text
from pages.shared.messages import count
from pages.shared.topics import topic_title

# figures that can be shown, with their glossary terms
SHOWN = {
    "topic_percentile": "topic_percentile",
    "distance": "text distance",
    **{name: name for name in ("perplexity", "accepted", "contamination", "contamination_share")},
    **{name: name for name in ("distinct_2", "distinct_3", "repetition", "concept", "fluency", "concept_fluency")},
}
SETS = ("metaphors", "continuations", "aligned", "unaligned")  # in the order of the paper's tables
COLUMNS = ("main", "all")
_OPENS = "continuations"  # over all topics; the metaphors are of medicine alone
_BEST = 3  # columns beside the paper's that are shown at first


@dataclass(frozen=True)
class Chosen:
    """The part of the table `text` that is shown: one topic and set of prompts."""

    topic: str
    prompts: str
    means: pd.DataFrame  # every column
    edits: tuple[str, ...]  # the columns shown

    @property
    def shown(self) -> pd.DataFrame:
        """The rows of the columns shown."""
        return self.means[self.means["edit"].isin(self.edits)]


def bound(key: str) -> dict[str, Any]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": f"texts_{key}", "bind": "query-params"}


def topic_name(name: str) -> str:
    """A topic's title, or `All topics`."""
    return "All topics" if name == ALL_TOPICS else topic_title(name)


def main_columns(means: pd.DataFrame) -> tuple[str, ...]:
    """The paper's columns, the prompt, and of the others the best by concept and fluency; in the order of the table."""
    first = {*PAPER_COLUMNS, "prompt"}
    others = means[~means["edit"].isin(first)].nlargest(_BEST, "concept_fluency")["edit"]
    return tuple(edit for edit in means["edit"] if edit in first | set(others))


def choose(means: pd.DataFrame) -> Chosen:
    """Lets topic, prompts and columns be chosen; opens on the means over the most topics."""
    topics = means["topic"].unique().tolist()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        topic = st.selectbox(
            "Topic",
            topics,
            index=topics.index(ALL_TOPICS) if ALL_TOPICS in topics else 0,
            format_func=topic_name,
            width=240,
            help=help_text("topic"),
            **bound("topic"),
        )
        mine = means[means["topic"] == topic]
        sets = [name for name in SETS if name in set(mine["prompts"])]
        prompts = st.segmented_control(
            "Prompts",
            sets,
            default=_OPENS if topic == ALL_TOPICS and _OPENS in sets else sets[0],
            required=True,
            format_func=str.capitalize,
            help=help_text("text prompts"),
            **bound("prompts"),
        )
        mine = mine[mine["prompts"] == prompts]
        columns = st.segmented_control(
            "Columns", COLUMNS, default=COLUMNS[0], required=True, help=help_text("text columns"), **bound("columns")
        )
    edits = main_columns(mine) if columns == COLUMNS[0] else tuple(mine["edit"])
    return Chosen(topic, prompts, mine, edits)


def interval(row: pd.Series, figure: str) -> str:
    """A mean with its interval, as in `4.22 (4.02 to 4.43)`; `n/a` if it is not defined."""
    mean, low, high = row[figure], row[f"{figure}_low"], row[f"{figure}_high"]
    return number(mean) if pd.isna(mean) or low == high else f"{number(mean)} ({number(low)} to {number(high)})"


def best_column(means: pd.DataFrame) -> str | None:
    """The column with the largest mean of concept and fluency; None if that is the unsteered one, or none is known."""
    known = means.set_index("edit")["concept_fluency"].dropna()
    best = None if known.empty else str(known.idxmax())
    return None if best == "none" else best


def show_sentence(chosen: Chosen) -> None:
    """Which column does best, in words."""
    keyed = chosen.means.set_index("edit")
    original, best = keyed.loc["none"], best_column(chosen.means)
    said = f"The original's texts lie at topic percentile **{number(original['topic_percentile'])}**, perplexity "
    said += f"**{number(original['perplexity'])}**. "
    if best is None:
        said += "No column does better than they do by concept and fluency."
    else:
        said += (
            f"Best by concept and fluency: **{TITLES[best]}**, at percentile "
            f"**{interval(keyed.loc[best], 'topic_percentile')}**, perplexity "
            f"**{interval(keyed.loc[best], 'perplexity')}**."
        )
    st.markdown(said, help=help_text("concept_fluency"))


def show_plane(chosen: Chosen) -> None:
    """Topic percentile against perplexity, a point for each column."""
    st.markdown("**Topic against fluency**", help=help_text("text plane"))
    st.plotly_chart(topic_plane(chosen.shown, best_column(chosen.means)), config=CONFIG, key="texts_plane")


def show_figure(chosen: Chosen, pairs: pd.DataFrame) -> None:
    """One figure of every column with its interval, and the differences paired by prompt."""
    measured = [name for name in SHOWN if chosen.means[name].notna().any()]
    figure = st.selectbox(
        "Figure",
        measured,
        format_func=lambda name: TERMS[SHOWN[name]].title,
        width=240,
        help=help_text("text interval"),
        **bound("figure"),
    )
    title = TERMS[SHOWN[figure]].title.lower()
    st.plotly_chart(interval_dots(chosen.shown, figure, title), config=CONFIG, key="texts_means")
    first = chosen.means.iloc[0]
    st.caption(
        f"Mean over {count(first['n'], 'prompt')} x {count(first['seeds'], 'seed')} with its 95% bootstrap interval; "
        "dotted: the original."
    )
    rows = pairs[(pairs["topic"] == chosen.topic) & (pairs["prompts"] == chosen.prompts) & (pairs["figure"] == figure)]
    rows = rows[rows["first"].isin(chosen.edits) & rows["second"].isin(chosen.edits)]
    if len(rows):
        st.markdown("Paired by prompt: " + "; ".join(rows.apply(difference_words, axis=1)) + ".")


def difference_words(row: pd.Series) -> str:
    """A paired difference in words, as in `Swap less SAE: -0.012 (-0.03 to +0.01)`."""
    first, second = TITLES[row["first"]], TITLES[row["second"]]
    span = f"{row['difference']:+.3g} ({row['low']:+.3g} to {row['high']:+.3g})"
    clear = "" if row["low"] <= 0 <= row["high"] else ", beyond chance"
    return f"{first} less {second}: **{span}**{clear}"
