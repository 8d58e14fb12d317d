"""The Layer output page: what an edit does to the layer's output, and whether prompt distances separate topics."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.store.reader import Store
from pages.parts.layer_output.distances import show_distances
from pages.parts.layer_output.special_tokens import show_special_tokens
from pages.shared.charts.figures import CONFIG
from pages.shared.charts.layer import SETS, changed_bars, delta_scatter
from pages.shared.charts.methods import swatches
from pages.shared.columns import number
from pages.shared.comparison import COLUMNS
from pages.shared.entry import enter
from pages.shared.experiments import download_table, experiment_tables, run_again, table_heading
from pages.shared.glossary.index import help_text
from pages.shared.links import choose_part
from pages.shared.messages import count
from pages.shared.setups import open_chosen_store
from pages.shared.tokens import Shaded, token_spans
from pages.shared.topics import topic_title

PARTS = ("Layer output", "Special tokens", "Distances")
TABLES = ("layer", "layer-contrasts", "layer-changed", "layer-tokens", "layer-extremes")
EDITS = ("swap", "clamp", "weight")
ALL_TOPICS = "all"  # in place of a topic's name: the mean over all topics
_LISTED = 8  # extreme tokens at either end
_FAINT = 3.0  # largest value of the colour ramp, so that 1 gets a light shade
_MEANS = {
    "neurons_changed": "neurons changed",
    "reconstruction_delta": "reconstruction delta",
    "contamination": "contamination",
    "contamination_share": "contamination share",
}


@dataclass(frozen=True)
class Claim:
    """A finding of the paper on its models: the figure is higher (+1) or lower (-1) in `first` than in `second`."""

    words: str
    first: str
    second: str
    figure: str
    sign: int


CLAIMS = (
    Claim(
        "Fig. 5: swap changes more neurons on aligned text", "swap, aligned", "swap, unaligned", "neurons_changed", 1
    ),
    *(
        Claim(
            f"Fig. 6: {edit}'s reconstruction delta is lower on aligned text",
            f"{edit}, aligned",
            f"{edit}, unaligned",
            "reconstruction_delta",
            -1,
        )
        for edit in ("clamp", "swap")
    ),
    *(
        Claim(
            f"Fig. 6: swap's contamination is below clamp's, {name} text",
            f"swap, {name}",
            f"clamp, {name}",
            "contamination",
            -1,
        )
        for name in SETS
    ),
)


def _bound(key: str) -> dict[str, Any]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": f"layer_{key}", "bind": "query-params"}


def interval(row: pd.Series, figure: str) -> str:
    """A mean with its interval, as in `4.22 (4.02 to 4.43)`; the mean alone if the interval has no width."""
    mean, low, high = row[figure], row[f"{figure}_low"], row[f"{figure}_high"]
    if not math.isfinite(mean):
        return "n/a"
    return number(mean) if low == high else f"{number(mean)} ({number(low)} to {number(high)})"


# ---- one topic and edit ----


def _of(table: pd.DataFrame, topic: str, edit: str) -> pd.DataFrame:
    """The rows of one topic, or of all topics, under one edit."""
    mine = table[table["edit"] == edit]
    return mine if topic == ALL_TOPICS else mine[mine["topic"] == topic]


def pooled(changed: pd.DataFrame) -> pd.DataFrame:
    """The histogram summed over several topics: columns set, neurons_changed, tokens, share."""
    counts = changed.groupby(["set", "neurons_changed"], as_index=False)["tokens"].sum()
    return counts.assign(share=counts["tokens"] / counts.groupby("set")["tokens"].transform("sum"))


def _choose(summary: pd.DataFrame) -> tuple[str, str]:
    """The topic and the edit to show."""
    names = [ALL_TOPICS, *(name for name in summary["topic"].unique() if name != ALL_TOPICS)]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        topic = st.selectbox(
            "Topic",
            names,
            format_func=lambda name: "All topics" if name == ALL_TOPICS else topic_title(name),
            width=280,
            help=help_text("topic"),
            **_bound("topic"),
        )
        edit = st.segmented_control(
            "Edit",
            EDITS,
            default=EDITS[0],
            required=True,
            format_func=COLUMNS.__getitem__,
            help=" ".join(f"**{COLUMNS[name]}**: {help_text(name).split(' [')[0]}" for name in EDITS),
            **_bound("edit"),
        )
    return str(topic), str(edit)


def _show_sentence(summary: pd.DataFrame, edit: str) -> None:
    rows = summary[summary["edit"] == edit].set_index("set")
    aligned, unaligned = (interval(rows.loc[name], "neurons_changed") for name in SETS)
    deltas = [interval(rows.loc[name], "reconstruction_delta") for name in SETS]
    st.markdown(
        f"{COLUMNS[edit]} changes **{aligned}** neurons a token on aligned text and **{unaligned}** on unaligned. Its "
        f"reconstruction delta is **{deltas[0]}** and **{deltas[1]}**; 0 is as far from the original as the SAE.",
        help=help_text("layer mean"),
    )
    st.html(swatches(SETS))


def _show_figures(tables: dict[str, pd.DataFrame], topic: str, edit: str) -> None:
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("**Neurons changed**", help=help_text("neurons_changed"))
        figure = changed_bars(pooled(_of(tables["layer-changed"], topic, edit)))
        st.plotly_chart(figure, config=CONFIG, key="layer_changed")
    with right:
        st.markdown("**Error against contamination**", help=help_text("reconstruction_delta"))
        figure = delta_scatter(_of(tables["layer-tokens"], topic, edit))
        st.plotly_chart(figure, config=CONFIG, key="layer_scatter")
    st.caption(
        f"Fig. {'13' if edit == 'weight' else '5 and 6'} of the Topic Alignment paper. Left: every ordinary token. "
        "Right: a sample of them; a delta below 0 is closer to the original than the SAE."
    )


def _show_means(setup: Setup, summary: pd.DataFrame, every: pd.DataFrame) -> None:
    table_heading("Means", "layer mean", every, setup.name, "layer output")
    cells = {figure: summary.apply(interval, axis=1, figure=figure) for figure in _MEANS}
    table = summary.assign(**cells, edit=summary["edit"].map(COLUMNS))
    st.dataframe(
        table,
        hide_index=True,
        key="layer_means",
        height=38 + 35 * len(table),
        placeholder="n/a",
        column_order=("edit", "set", *_MEANS, "sae_error", "correlation"),
        column_config={
            "edit": st.column_config.TextColumn("edit", width=64),
            "set": st.column_config.TextColumn("text", width=76, help=help_text("sets")),
            **{name: st.column_config.TextColumn(label, help=help_text(name)) for name, label in _MEANS.items()},
            "sae_error": st.column_config.NumberColumn("SAE's error", format="%.3g", help=help_text("sae_error")),
            "correlation": st.column_config.NumberColumn("correlation", format="%.2f", help=help_text("correlation")),
        },
    )
    over = count(int(summary["n"].iloc[0]), "topic") if summary["topic"].iloc[0] == ALL_TOPICS else "prompts"
    st.caption(f"In brackets: 95% bootstrap interval over {over}. The share ranks clamp lowest by construction.")


def _context(row: Any) -> str:
    tokens = [Shaded(row.before), Shaded(row.token, 1.0), Shaded(row.after)]
    return token_spans(tokens, _FAINT, prefix=f"{number(row.reconstruction_delta)}  ")


def _show_extremes(setup: Setup, extremes: pd.DataFrame, topic: str, edit: str) -> None:
    table_heading("Extreme tokens", "extremes", extremes, setup.name, "extreme tokens")
    chosen = st.segmented_control(
        "Text", list(SETS), default="aligned", required=True, help=help_text("sets"), **_bound("set")
    )
    mine = _of(extremes, topic, edit)
    mine = mine[mine["set"] == chosen]
    columns = st.columns(2, gap="medium")
    ends = (("lowest", "Closest to the original", True), ("highest", "Farthest from the original", False))
    for column, (end, title, ascending) in zip(columns, ends, strict=True):
        rows = mine[mine["end"] == end].sort_values("reconstruction_delta", ascending=ascending).head(_LISTED)
        with column:
            st.markdown(f"**{title}**, reconstruction delta before each")
            st.html("".join(_context(row) for row in rows.itertuples()))


# ---- over all topics ----


def verdict(row: pd.Series, sign: int) -> str:
    """Whether a difference has the sign that the paper found; undecided if its interval includes 0."""
    if row["low"] <= 0 <= row["high"]:
        return "not told apart"
    return "yes" if sign * row["difference"] > 0 else "the reverse"


def _show_claims(setup: Setup, contrasts: pd.DataFrame) -> None:
    table_heading("What the paper found, here", "contrast", contrasts, setup.name, "layer contrasts")
    keyed = contrasts.set_index(["first", "second", "figure"])
    rows = []
    for claim in CLAIMS:
        row = keyed.loc[(claim.first, claim.second, claim.figure)]
        here = f"{row['difference']:+.3g} ({row['low']:+.3g} to {row['high']:+.3g})"
        rows.append(
            {"the paper": claim.words, "here": verdict(row, claim.sign), "difference": here, "topics": int(row["n"])}
        )
    st.dataframe(
        pd.DataFrame(rows),
        hide_index=True,
        key="layer_claims",
        column_config={
            "here": st.column_config.TextColumn("here", width=100),
            "difference": st.column_config.TextColumn("difference", help=help_text("contrast")),
            "topics": st.column_config.NumberColumn("topics", width=60),
        },
    )


def _show_layer(setup: Setup, store: Store) -> None:
    about = "It edits the activations of 340 prompts under each of 4 edits: about half a minute on two free cores."
    tables = experiment_tables(setup, store, "layer", TABLES, about)
    topic, edit = _choose(tables["layer"])
    summary = tables["layer"][tables["layer"]["topic"] == topic]
    _show_sentence(summary, edit)
    _show_figures(tables, topic, edit)
    _show_means(setup, summary, tables["layer"])
    _show_extremes(setup, tables["layer-extremes"], topic, edit)
    _show_claims(setup, tables["layer-contrasts"])
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("The points of the figure", help=help_text("extremes"), width="content")
        download_table(tables["layer-tokens"], setup.name, "layer tokens")
        run_again(setup, store, "layer")


def main() -> None:
    enter("What does an edit do to the layer's output?")
    setup, store = open_chosen_store()
    about = "What each edit does to activations, and to those of special tokens, or how far apart topics are"
    part = choose_part(PARTS, about, **_bound("part"))
    if part == PARTS[0]:
        _show_layer(setup, store)
    elif part == PARTS[1]:
        show_special_tokens(setup, store)
    else:
        show_distances(setup, store)


main()
