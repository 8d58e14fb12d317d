"""One neuron in detail: its figures for the topic, its prompts, its tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import get_args

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.scoring.scores import DENSE, TopicScores
from core.settings import Distance, ScoreSettings, Summary
from core.store.reader import Store
from core.text.prompts import Topic
from pages.shared.charts import figures as charts
from pages.shared.collecting import collect
from pages.shared.glossary.index import help_text, term_link
from pages.shared.messages import count
from pages.shared.resources import score
from pages.shared.tokens import case_mark, token_list

_GROUPS = 6  # shown, largest first


@dataclass(frozen=True)
class OpenNeuron:
    """A neuron with what the store knows about it, its row of the scores, and its case, once that is known."""

    number: int
    known: pd.Series
    figures: pd.Series  # of `TopicScores.table`, with rank (NaN when too rare)
    n_scored: int
    case: str  # empty while chance is not measured
    density: float  # share of the reference tokens on which it is active


def open_neuron(store: Store, scores: TopicScores, number: int, case_of: Callable[[int], str]) -> OpenNeuron:
    """The neuron with that number.

    Raises:
        NeuronRangeError: the SAE has no such neuron.
    """
    known = store.neurons([number]).iloc[0]
    ranks = scores.ranked().set_index("neuron")["rank"]
    figures = scores.table.iloc[number].copy()
    figures["rank"] = ranks.get(number, float("nan"))
    return OpenNeuron(number, known, figures, len(ranks), case_of(number), float(store.density()[number]))


def choose_neuron(store: Store, best: int) -> int:
    """The neuron that is typed, in the link, or selected in the ranking; by default the best one."""
    typed = st.number_input(
        "Neuron",
        value=None,
        step=1,
        key="neuron",
        bind="query-params",
        placeholder=f"{best} (best)",
        help=f"Click one in the ranking, or type 0 to {store.d_sae - 1:,}. " + help_text("neuron"),
        width=160,
    )
    return best if typed is None else typed


def show_figures(neuron: OpenNeuron, min_prompts: int, more: Mapping[str, str]) -> None:
    """Shows score, rank and case, and what they are based on.

    Args:
        more: other figures, as HTML by glossary term.
    """
    figures = neuron.figures
    facts = {"g": f"{figures['g']:.3f}", "prompts": f"{int(figures['prompts']):,}"}
    if neuron.case:
        facts["case"] = case_mark(neuron.case)
    if pd.notna(figures["score"]):
        rank = f"<small>rank {figures['rank']:,.0f} of {neuron.n_scored:,}</small>"
        facts = {"score": f"{figures['score']:.3f} {rank}", **facts}
    if not figures["prompts"]:
        del facts["g"]
    facts |= more
    cells = "".join(f"<div><dt>{term_link(name, name)}</dt><dd>{shown}</dd></div>" for name, shown in facts.items())
    st.html(f'<dl class="ss-facts">{cells}</dl>')
    if neuron.density > DENSE:
        st.caption(f"A dense neuron: active on {neuron.density:.0%} of the reference tokens.", help=help_text("dense"))
    if figures["prompts"] < min_prompts:
        st.caption(
            f"Active in {count(int(figures['prompts']), 'reference prompt')}: too rare to score, which takes "
            f"{min_prompts}. In steering it counts as score 0.",
            help=help_text("too rare"),
        )
    else:
        st.caption(
            f"{figures['near']:.0%} of its activation lies on the quarter of the prompts nearest to the topic, "
            f"{figures['far']:.0%} on the farthest.",
            help=help_text("case"),
        )


def show_summaries(store: Store, scores: TopicScores, neuron: OpenNeuron) -> None:
    """Shows the prompts on which it is active: its summary on each against the prompt's distance from the topic."""
    if not neuron.known["prompts"]:
        st.markdown("It is active on no reference prompt: there is no activation to show.")
        return
    rows = store.neuron_rows(neuron.number)
    figure = charts.summary_against_distance(rows, scores.distances, scores.settings)
    st.plotly_chart(figure, config=charts.CONFIG, key="summaries")


def show_histogram(neuron: OpenNeuron) -> None:
    """Shows the histogram of its activations."""
    if not neuron.known["tokens"]:
        return
    st.markdown(f"**Activations of neuron {neuron.number:,}**", help=help_text("histogram"))
    figure = charts.activation_histogram(neuron.known["histogram"], float(neuron.known["max"]))
    st.plotly_chart(figure, config=charts.CONFIG, key="histogram")


def show_ranks(setup: Setup, store: Store, topic: Topic, chosen: ScoreSettings, neuron: OpenNeuron) -> None:
    """Shows its rank under every summary and distance, with the page's own setting in bold."""
    if pd.isna(neuron.figures["score"]):
        return  # too few prompts under every setting
    rows = []
    for summary in get_args(Summary):
        cells = []
        for distance in get_args(Distance):
            settings = replace(chosen, summary=summary, distance=distance)
            ranked = score(setup, store, topic, settings).scores.ranked()
            rank = int(ranked.loc[ranked["neuron"] == neuron.number, "rank"].iloc[0])
            mark = ' class="ss-best"' if settings == chosen else ""
            cells.append(f"<td{mark}>{rank:,}</td>")
        rows.append(f"<tr><th>{summary}</th>{''.join(cells)}</tr>")
    heads = "".join(f"<td>{distance}</td>" for distance in get_args(Distance))
    st.markdown(f"**Ranks of neuron {neuron.number:,} among {neuron.n_scored:,}**", help=help_text("rankings"))
    st.html(f'<table class="ss-figures">{"".join([f"<tr><th></th>{heads}</tr>", *rows])}</table>')


def show_tokens(neuron: OpenNeuron) -> None:
    """Shows the tokens that it fires on, and those that it promotes and suppresses."""
    for label, column, key in (
        ("Fires on", "top_tokens", "top tokens"),
        ("Promotes", "promoted", "promotes"),
        ("Suppresses", "suppressed", "promotes"),
    ):
        if len(neuron.known[column]):
            st.markdown(f"**{label}**", help=help_text(key))
            st.html(token_list(neuron.known[column]))


def show_groups(store: Store, neuron: OpenNeuron) -> None:
    """Shows how its activation is divided among the groups of reference prompts, beside that of all neurons."""
    shares = store.group_mass([neuron.number]).head(_GROUPS)
    if shares.empty:
        return
    everyone = store.group_mass().rename(columns={"share": "share_all"})
    shares = shares.merge(everyone, on="group", how="left")
    shares["group"] = shares["group"].map(lambda name: escape(name) or "no group")
    st.markdown(f"**Groups of prompts of neuron {neuron.number:,}**", help=help_text("groups"))
    st.plotly_chart(charts.group_bars(shares), config=charts.CONFIG, key="groups")


def collect_button(setup: Setup, topic: Topic, neuron: OpenNeuron, output_score: float | None) -> None:
    """A button that adds the neuron, with its figures for the topic, to the collected rows."""
    if not st.button("Collect", help="Adds this neuron, with its figures for the topic, to Compare and export"):
        return
    figures = {name: neuron.figures[name] for name in ("score", "rank", "g") if pd.notna(neuron.figures[name])}
    row = {
        "kind": "neuron",
        "setup": setup.name,
        "topic": topic.title,
        "neuron": neuron.number,
        **{name: int(value) if name == "rank" else float(value) for name, value in figures.items()},
        **({} if output_score is None else {"output_score": output_score}),
        "prompts": int(neuron.figures["prompts"]),
        **({"case": neuron.case} if neuron.case else {}),
        "top_tokens": " ".join(neuron.known["top_tokens"]),
    }
    collect([row], "neuron")
