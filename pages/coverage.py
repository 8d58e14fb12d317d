"""The Coverage page: how many neurons the reference prompts reach, and how few prompts would be enough."""

from typing import Any

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.evaluation.reference import DISJOINT, MIN_SHARE, N_TOP, by_size, coactivation_sets
from core.results.app_store import AppStore
from core.results.names import Names
from core.store.reader import Store
from core.text.prompts import bundled_topics
from pages.shared.charts import coverage as figures
from pages.shared.charts.colours import Theme
from pages.shared.charts.figures import CONFIG
from pages.shared.charts.methods import swatches
from pages.shared.entry import enter
from pages.shared.experiments import experiment_tables, run_again, table_heading
from pages.shared.glossary.index import help_text
from pages.shared.links import choose_part, steering_query
from pages.shared.messages import count, show_error
from pages.shared.names import NAME_COLUMN, linked, neuron_markdown, neuron_names
from pages.shared.resources import app_store
from pages.shared.setups import open_chosen_store

PARTS = ("Coverage", "Reference set")
COVERAGE = ("coverage", "coverage-summary", "coverage-tokens", "coverage-dead")
REFERENCE = ("reference-tau", "reference-size", "reference-coactivation")
_RULES = {"same": "the whole set's ranking", "reproducible": "what is reproducible of it"}
_LISTED_PAIRS = 12


def _bound(key: str) -> dict[str, Any]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": f"coverage_{key}", "bind": "query-params"}


# ---- coverage ----


def _others(results: AppStore, setup: Setup) -> dict[str, pd.DataFrame]:
    """The saved summaries of the setups that the user wants to see beside this one.

    Raises:
        SteerscopeError: the app's store cannot be read.
    """
    saved = results.results()
    names = sorted(set(saved.loc[saved["what"] == "coverage-summary", "setup"]) - {setup.name})
    if not names:
        st.caption("Other setups can stand beside this one once their coverage was computed.")
        return {}
    chosen = st.multiselect(
        "Beside",
        names,
        placeholder="other setups",
        max_selections=len(figures.SETUP_COLOURS) - 1,
        help="Other setups whose coverage was computed",
        width=420,
        **_bound("beside"),
    )
    return {name: table for name in chosen if (table := results.result(name, "coverage-summary")) is not None}


def _show_curves(summaries: dict[str, pd.DataFrame]) -> None:
    if len(summaries) > 1:
        st.html(swatches(dict(zip(summaries, figures.SETUP_COLOURS, strict=False))))
    left, right = st.columns(2, gap="medium")
    for column, share, title in ((left, "share_1", "In at least 1 prompt"), (right, "share_20", "In more than 20")):
        with column:
            st.markdown(f"**{title}**", help=help_text("coverage"))
            st.plotly_chart(figures.coverage_curves(summaries, share), config=CONFIG, key=f"coverage_{share}")
    st.caption(
        "Fig. 3 of the Topic Alignment paper: 5 samples of each size, drawn with replacement; bars from the lowest to "
        "the highest. Diamond: the whole set, each prompt once. Most of the paper's smaller layer 0 SAEs pass 99% at "
        "about 8K prompts."
    )


def _show_histogram(setup: Setup, store: Store, bins: pd.DataFrame) -> None:
    counts = store.neurons()[["neuron", "prompts", "tokens"]]
    table_heading("How much of the text each neuron sees", "tokens per neuron", counts, setup.name, "tokens per neuron")
    measure = st.segmented_control(
        "Count",
        ["tokens", "prompts"],
        default="tokens",
        required=True,
        help=help_text("tokens per neuron"),
        **_bound("count"),
    )
    st.plotly_chart(figures.neuron_histogram(bins[bins["measure"] == measure]), config=CONFIG, key="coverage_histogram")
    st.caption(f"Fig. 8 of the paper: each bar counts the neurons active on that many {measure}. Grey: dead.")


def _show_dead(setup: Setup, dead: pd.DataFrame) -> None:
    listed = dead.assign(promoted=dead["promoted"].map(lambda tokens: " ".join(token.strip() for token in tokens)))
    table_heading("Dead neurons", "dead neurons", listed, setup.name, "dead neurons")
    if dead.empty:
        st.markdown("None: every neuron fires on some reference prompt.")
        return
    st.dataframe(
        listed,
        hide_index=True,
        height=38 + 35 * min(9, len(listed)),
        key="coverage_dead",
        column_config={
            "neuron": st.column_config.NumberColumn("neuron", format="%d", width=70, help=help_text("neuron")),
            "promoted": st.column_config.TextColumn("would promote", help=help_text("promotes")),
        },
    )


def _show_coverage(setup: Setup, store: Store) -> None:
    about = "Samples of the stored activations are counted, in some seconds."
    tables = experiment_tables(setup, store, "coverage", COVERAGE, about)
    summary, dead = tables["coverage-summary"], tables["coverage-dead"]
    whole = summary[summary["samples"] == 0].iloc[0]
    st.markdown(
        f"**{whole['share_1']:.1%}** of {store.d_sae:,} neurons fire on at least one of {int(whole['size']):,} "
        f"reference prompts, **{whole['share_20']:.1%}** on more than 20; {count(len(dead), 'neuron')} on none.",
        help=help_text("coverage"),
    )
    table_heading("Neurons reached", "coverage", tables["coverage"], setup.name, "coverage samples")
    try:
        others = _others(app_store(), setup)
    except SteerscopeError as exc:
        show_error(exc)
        return
    _show_curves({setup.name: summary, **others})
    left, right = st.columns([3, 2], gap="medium")
    with left:
        _show_histogram(setup, store, tables["coverage-tokens"])
    with right:
        _show_dead(setup, dead)
    run_again(setup, store, "coverage")


# ---- the reference set ----


def _suggestion(sizes: pd.DataFrame, means: pd.DataFrame, n_prompts: int) -> list[str]:
    """What the table of suggested sizes says, one sentence per rule."""
    said = []
    for rule, rows in sizes.groupby("rule", sort=False):
        target, reached, name = rows["target"].iloc[0], rows.dropna(subset="size"), f"**{_RULES[rule]}**"
        if reached.empty:
            said.append(f"No smaller set that was tried keeps {name}: a mean tau of at least {target:.2f}.")
            continue
        best = reached.loc[reached["size"].astype(int).idxmin()]  # ties go to the first, the simplest design
        line = (
            f"**{best['size']:,}** of {n_prompts:,} prompts ({best['design']}) keep {name}: mean tau {best['tau']:.2f}"
        )
        if rule == "same":
            said.append(f"{line}, where at least {target:.1f} is asked.")
        else:
            largest = means.loc[means["design"] == DISJOINT, "size"].max()
            said.append(f"{line}; two disjoint random sets of {largest:,} agree with each other by only {target:.2f}.")
    return said


def _show_designs(setup: Setup, tables: dict[str, pd.DataFrame], n_prompts: int) -> None:
    tau = tables["reference-tau"]
    means = by_size(tau)
    for sentence in _suggestion(tables["reference-size"], means, n_prompts):
        st.markdown(sentence, help=help_text("suggested size"))
    table_heading("Rankings by smaller sets", "design", tau, setup.name, "reference sets")
    measure = st.segmented_control(
        "Show",
        list(figures.MEASURES),
        default="tau",
        required=True,
        format_func=lambda name: figures.MEASURES[name].title,
        help=help_text("agreement"),
        **_bound("measure"),
    )
    st.html(swatches({name: colour for name, colour in figures.DESIGN_COLOURS.items() if name in set(means["design"])}))
    st.plotly_chart(figures.design_curves(means, measure, n_prompts), config=CONFIG, key="coverage_designs")
    bars = "Bars: lowest and highest topic. " if measure == "tau" else ""
    st.caption(
        f"{figures.MEASURES[measure].about}; mean over {count(tau['topic'].nunique(), 'topic')}. {bars}Dotted: two "
        "disjoint random sets against one another, which is how far a ranking is reproducible at all; every other set "
        "is part of the whole, so its line ends at 1."
    )


def _show_sizes(setup: Setup, sizes: pd.DataFrame) -> None:
    table_heading("Suggested sizes", "suggested size", sizes, setup.name, "suggested sizes")
    st.dataframe(
        sizes.assign(rule=sizes["rule"].map(_RULES), top=100 * sizes["top"], share=100 * sizes["share"]),
        hide_index=True,
        key="coverage_sizes",
        placeholder="not reached",
        column_order=("rule", "target", "design", "size", "tau", "tau_low", "top", "share"),
        column_config={
            "rule": st.column_config.TextColumn("rule", width=190, help=help_text("suggested size")),
            "target": st.column_config.NumberColumn("tau asked", format="%.2f", width=74),
            "design": st.column_config.TextColumn("design", width=170, help=help_text("design")),
            "size": st.column_config.NumberColumn("prompts", format="localized", width=80),
            "tau": st.column_config.NumberColumn("tau", format="%.3f", width=60, help=help_text("agreement")),
            "tau_low": st.column_config.NumberColumn("lowest topic", format="%.3f", width=84),
            "top": st.column_config.NumberColumn(f"best {N_TOP} kept", format="%.1f%%", width=90),
            "share": st.column_config.NumberColumn("scored", format="%.1f%%", width=70),
        },
    )
    st.caption(
        f"The smallest size tried from which on mean tau stays at what the rule asks, with at least {MIN_SHARE:.0%} of "
        "the whole set's scored neurons scored."
    )


def _show_coactivation(setup: Setup, store: Store, table: pd.DataFrame) -> None:
    topics = bundled_topics()
    table_heading("Which of the best neurons fire together", "coactivation", table, setup.name, "coactivation")
    names = table["topic"].unique().tolist()
    topic = st.selectbox(
        "Topic",
        names,
        format_func=lambda name: topics[name].title if name in topics else name,
        width=280,
        help=f"Whose {N_TOP} best neurons are shown",
        **_bound("topic"),
    )
    pairs = table[table["topic"] == topic]
    names = neuron_names(store)
    theme: Theme = "dark" if st.context.theme.type == "dark" else "light"
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.plotly_chart(figures.coactivation_map(pairs, names, theme), config=CONFIG, key="coverage_map")
    with right:
        st.markdown("**The pairs that fire together most**")
        closest = pairs.nlargest(_LISTED_PAIRS, "jaccard")
        st.dataframe(
            closest.assign(first=linked(names, closest["first"]), second=linked(names, closest["second"])),
            hide_index=True,
            height=38 + 35 * len(closest),
            key="coverage_pairs",
            column_order=("first", "second", "both", "jaccard"),
            column_config={
                "first": NAME_COLUMN | {"label": "one neuron", "width": 128},
                "second": NAME_COLUMN | {"label": "the other", "width": 128},
                "both": st.column_config.NumberColumn("prompts", format="localized", width=64),
                "jaccard": st.column_config.NumberColumn(
                    "Jaccard", format="%.3f", width=64, help=help_text("coactivation")
                ),
            },
        )
    _show_sets(pairs, names, topics[topic].title if topic in topics else topic)


def _show_sets(pairs: pd.DataFrame, names: Names, title: str) -> None:
    """The sets of neurons that fire together, each with a button that steers with all of them."""
    st.markdown("**Sets that fire together**", help=help_text("coactivation sets"))
    sets = coactivation_sets(pairs)
    if not sets:
        st.markdown("No two of these neurons fire together often enough to make a set.")
    for number, neurons in enumerate(sets):
        with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
            st.markdown(", ".join(neuron_markdown(names[neuron]) for neuron in neurons))
            if st.button(
                f"Steer with these {len(neurons)}",
                key=f"coverage_set_{number}",
                help="Opens Generate, where all of them are added, with a slider for their strength",
            ):
                # the setup stays by itself: Streamlit lets no code set a parameter that is bound to a widget here
                query = {name: value for name, value in steering_query(neurons).items() if name in ("added", "columns")}
                st.switch_page("pages/generate.py", query_params={**query, "bundled": title})


def _show_reference(setup: Setup, store: Store) -> None:
    about = "Hundreds of smaller sets score the neurons for every bundled topic: about a minute on two cores."
    tables = experiment_tables(setup, store, "reference", REFERENCE, about)
    _show_designs(setup, tables, store.n_prompts)
    _show_sizes(setup, tables["reference-size"])
    _show_coactivation(setup, store, tables["reference-coactivation"])
    run_again(setup, store, "reference")


def main() -> None:
    enter("How many neurons do the prompts reach?")
    setup, store = open_chosen_store()
    part = choose_part(PARTS, "Coverage of the neurons, or the choice of the reference prompts", **_bound("part"))
    if part == PARTS[0]:
        _show_coverage(setup, store)
    else:
        _show_reference(setup, store)


main()
