"""One neuron in detail: its figures for the topic, its prompts, its tokens."""

from html import escape

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import NeuronRangeError, SteerscopeError
from core.prompts import Topic
from core.store import Context, Store
from pages.shared import charts
from pages.shared.glossary import help_text
from pages.shared.messages import count, show_error
from pages.shared.resources import ScoredIn, app_store
from pages.shared.tokens import Shaded, case_mark, legend, token_list, token_spans

_GROUPS = 6  # shown, largest first


def choose_neuron(store: Store, best: int) -> int:
    """The neuron that is typed, in the link, or selected in the ranking; otherwise the best one."""
    typed = st.number_input(
        "Neuron",
        value=None,
        step=1,
        key="neuron",
        bind="query-params",
        placeholder=f"{best} (best)",
        help=f"Select one in the ranking, or type 0 to {store.d_sae - 1:,}. " + help_text("neuron"),
        width=160,
    )
    return best if typed is None else typed


def show_neuron(setup: Setup, store: Store, topic: Topic, scored: ScoredIn, neuron: int) -> None:
    """What the neuron has to do with the topic."""
    try:
        known = store.neurons([neuron]).iloc[0]
    except NeuronRangeError as exc:
        show_error(exc)
        return
    figures = _figures(scored, neuron)
    _show_figures(scored, figures)
    if known["prompts"]:
        rows = store.neuron_rows(neuron)
        st.plotly_chart(
            charts.summary_against_distance(rows, scored.scores.distances, scored.scores.settings),
            config=charts.CONFIG,
            key="summaries",
        )
    else:
        st.info("This neuron is active on no reference prompt: there is nothing to show of its activation.")
    _show_tokens(known)
    if st.button("Collect", help="Adds this neuron, with its figures for the topic, to Compare and export"):
        _collect(setup, topic, figures, known)
    if known["prompts"]:
        _show_contexts(store.contexts(neuron), float(known["max"]))
        _show_groups(store, neuron)


def _figures(scored: ScoredIn, neuron: int) -> pd.Series:
    """The neuron's row of the scores, with its rank (NaN when too rare)."""
    ranked = scored.scores.ranked().set_index("neuron")["rank"]
    row = scored.scores.table.iloc[neuron].copy()
    row["rank"] = ranked.get(neuron)
    row["scored"] = len(ranked)
    return row


def _show_figures(scored: ScoredIn, figures: pd.Series) -> None:
    facts = {"g": f"{figures['g']:.3f}", "prompts": f"{figures['prompts']:,}", "case": case_mark(figures["case"])}
    if pd.notna(figures["score"]):
        rank = f"{figures['score']:.3f} <small>rank {figures['rank']:,.0f} of {figures['scored']:,}</small>"
        facts = {"score": rank, **facts}
    elif not figures["prompts"]:
        del facts["g"]
    cells = "".join(f"<div><dt>{name}</dt><dd>{shown}</dd></div>" for name, shown in facts.items())
    st.html(f'<dl class="ss-facts">{cells}</dl>')
    if figures["case"] == "too rare":
        least = scored.scores.settings.min_prompts
        st.info(
            f"Active in {count(figures['prompts'], 'reference prompt')}, too rare to score: that takes {least}. "
            "In steering it counts as score 0."
        )
    else:
        st.caption(
            f"{figures['near']:.0%} of its activation lies on the quarter of the prompts nearest to the topic, "
            f"{figures['far']:.0%} on the farthest.",
            help=help_text("case"),
        )


def _show_tokens(known: pd.Series) -> None:
    for label, column, key in (
        ("Fires on", "top_tokens", "top tokens"),
        ("Promotes", "promoted", "promotes"),
        ("Suppresses", "suppressed", "promotes"),
    ):
        if len(known[column]):
            st.markdown(f"**{label}**", help=help_text(key))
            st.html(token_list(known[column]))


def _show_contexts(contexts: list[Context], largest: float) -> None:
    st.markdown("**Contexts**", help=help_text("contexts"))
    st.html(legend("0", f"{largest:.3g}", "activation"))
    st.html(
        "".join(
            token_spans(
                [
                    Shaded(token, float(a), f"activation {a:.3g}" if a else "")
                    for token, a in zip(context.tokens, context.activations, strict=True)
                ],
                largest,
            )
            for context in contexts
        )
    )


def _show_groups(store: Store, neuron: int) -> None:
    shares = store.group_mass([neuron]).head(_GROUPS)
    everyone = store.group_mass().rename(columns={"share": "share_all"})
    shares = shares.merge(everyone, on="group", how="left")
    shares["group"] = shares["group"].map(lambda name: escape(name) or "no group")
    st.markdown("**Groups of its prompts**", help=help_text("groups"))
    st.plotly_chart(charts.group_bars(shares), config=charts.CONFIG, key="groups")


def _collect(setup: Setup, topic: Topic, figures: pd.Series, known: pd.Series) -> None:
    row = {
        "kind": "neuron",
        "setup": setup.name,
        "topic": topic.title,
        "neuron": int(known["neuron"]),
        **{name: float(figures[name]) for name in ("score", "g") if pd.notna(figures[name])},
        **({"rank": int(figures["rank"])} if pd.notna(figures["rank"]) else {}),
        "prompts": int(figures["prompts"]),
        "case": figures["case"],
        "top_tokens": " ".join(known["top_tokens"]),
    }
    try:
        app_store().collect(row)
    except SteerscopeError as exc:
        show_error(exc)
    else:
        st.toast(f"Neuron {known['neuron']:,} is in Compare and export.")
