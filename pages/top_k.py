"""The Top-k page: whether a topic's text fires its best neurons, for one topic and for all bundled ones."""

from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.store.reader import Store
from core.text.prompts import Topic
from pages.parts.top_k.curves import topic_top_k
from pages.shared.charts import figures as charts
from pages.shared.charts.topk import SMALL_WIDTH, topk_curves, topk_neurons, topk_small
from pages.shared.entry import enter
from pages.shared.experiments import download_table, experiment_tables, is_saved, run_again, table_heading
from pages.shared.glossary.index import help_text, term_link
from pages.shared.links import link_button
from pages.shared.messages import count, plain, show_error
from pages.shared.names import neuron_link, neuron_names
from pages.shared.resources import score
from pages.shared.setups import open_chosen_store
from pages.shared.tokens import counted_tokens
from pages.shared.topics import chosen_topic, score_settings, topic_controls, topic_title

if TYPE_CHECKING:  # imports torch
    from core.evaluation.topk import TopK

TABLES = ("topk", "topk-summary", "topk-ahead", "topk-tokens")
DEFAULT_K = 16
SHOWN_NAMES = 16
FEW_TOKENS = 200  # with fewer tokens a curve has only a few steps
SPARSE_K = (64,)  # where the summary also says what dense neurons do
_DIFFERENCES = ("difference_4", "difference_16", "difference_64")


def _may_load(setup: Setup) -> bool:
    """Whether the model may be loaded: an embedded one at once, another when asked, as it may be large."""
    if setup.origin == "embedded" or st.session_state.get("topk_loaded") == setup.name:
        return True
    st.markdown("This runs the topic's prompts and 40 unaligned ones through the model: seconds, once it is loaded.")
    if not st.button("Run the model", type="primary", help="Loads the language model and the SAE"):
        return False
    st.session_state["topk_loaded"] = setup.name
    return True


def _show_figures(one: "TopK") -> None:
    figures = one.summary
    facts = [("area", "area", f"{figures['area']:.3f} <small>chance {figures['area_chance']:.3f}</small>")]
    for name in _DIFFERENCES:
        k = name.removeprefix("difference_")
        if pd.notna(figures[name]):
            facts.append((f"difference at k = {k}", "top-k", f"{figures[name]:+.1%}"))
    tokens = f"{figures['tokens_aligned']:,} <small>and {figures['tokens_unaligned']:,} unaligned</small>"
    facts.append(("tokens", "unaligned", tokens))
    cells = "".join(f"<div><dt>{term_link(term, label)}</dt><dd>{shown}</dd></div>" for label, term, shown in facts)
    st.html(f'<dl class="ss-facts">{cells}</dl>')
    if (n := int(figures["tokens_aligned"])) < FEW_TOKENS:
        st.caption(
            f"Only {count(n, 'token')}: each is {1 / n:.1%} of the curve. More lines, or a bundled topic (20 prompts, "
            "about 1,000 tokens), tell more."
        )


def _show_dense(one: "TopK", k: int) -> None:
    """Says how many dense neurons are among the k best, and what the others show."""
    dense, k = one.dense, min(k, len(one.curves))
    n, row = int(dense.count[k - 1]), one.curves.iloc[k - 1]
    if not n:
        words = "None of them is dense, active on more than 10% of the reference tokens."
    else:
        words = (
            f"{count(n, 'dense neuron')} among them, active on more than 10% of the reference tokens. Without: "
            f"{dense.aligned[k - 1]:.1%} of the topic's tokens and {dense.unaligned[k - 1]:.1%} of the unaligned, "
            f"instead of {row['aligned']:.1%} and {row['unaligned']:.1%}."
        )
    st.caption(words, help=help_text("dense"))


def _choose_k(tokens: pd.DataFrame) -> int:
    options = sorted({int(k) for k in tokens["k"]})
    return int(
        st.select_slider(
            "k, best-scored neurons",
            options,
            value=DEFAULT_K if DEFAULT_K in options else options[-1],
            key="topk_k",
            bind="query-params",
            help="The dotted line in the figures; the tokens are those of these neurons. " + help_text("top-k tokens"),
        )
    )


def _show_tokens(tokens: pd.DataFrame, k: int, text: str, title: str) -> None:
    """The tokens of one text on which the k best neurons fire."""
    rows = tokens[(tokens["k"] == k) & (tokens["text"] == text)]
    st.markdown(f"**{title}**", help=help_text("top-k tokens"))
    if rows.empty:
        st.caption("None: none of these neurons fires here.")
        return
    st.html(counted_tokens(rows[["token", "times", "occurrences"]].itertuples(index=False, name=None)))


def _show_names(store: Store, best: list[int]) -> None:
    """The best neurons of the topic by name, each a link to its page."""
    names, shown = neuron_names(store), best[:SHOWN_NAMES]
    st.markdown("**The best neurons**", help=help_text("name"))
    rest = f" and {len(best) - len(shown):,} more" if len(best) > len(shown) else ""
    st.html(f'<p class="ss-names">{" ".join(neuron_link(names[neuron]) for neuron in shown)}{rest}</p>')


def _show_topic(setup: Setup, store: Store, topic: Topic, one: "TopK") -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"**{plain(topic.title)}**: {count(len(topic.prompts), 'prompt')}, "
            f"{count(int(one.summary['n_scored']), 'scored neuron')}",
            width="stretch",
        )
        download_table(one.curves, setup.name, topic.title, "top-k")
        link_button("A link cannot carry a file." if st.session_state.get("file_topic") else "")
    _show_figures(one)
    left, right = st.columns([5, 4], gap="medium")
    with right:
        k = _choose_k(one.tokens)
        _show_names(store, score(setup, store, topic, score_settings()).scores.ranked(k)["neuron"].tolist())
        _show_dense(one, k)
        _show_tokens(one.tokens, k, "aligned", "Fires on, in the topic's text")
        _show_tokens(one.tokens, k, "unaligned", "Fires on, in unaligned text")
    with left:
        st.markdown("**Tokens on which one of the k best neurons fires**", help=help_text("top-k"))
        st.plotly_chart(topk_curves(one.drawn, k), config=charts.CONFIG, key="topk_curves")
        st.markdown("**Of the k best neurons, those that fire at all**", help=help_text("top-k neurons"))
        st.plotly_chart(topk_neurons(one.drawn, k), config=charts.CONFIG, key="topk_neurons")


def _show_ahead(tables: dict[str, pd.DataFrame]) -> None:
    ahead, summary = tables["topk-ahead"], tables["topk-summary"]
    counts = ", ".join(f"at k = {row.k} in **{row.ahead} of {row.topics}**" for row in ahead.itertuples())
    above = int((summary["area"] > summary["area_chance"]).sum())
    st.markdown(
        f"A topic's own text fires more than unaligned text {counts} topics. The area is above chance in **{above} of "
        f"{len(summary)}**.",
        help=help_text("chance"),
    )


def _show_multiples(curves: pd.DataFrame, summary: pd.DataFrame) -> None:
    with st.container(horizontal=True, gap="small"):
        for row in summary.itertuples():
            with st.container(width=SMALL_WIDTH, gap=None):
                st.markdown(f"**{plain(topic_title(row.topic))}**  \n{row.area:.3f}")
                figure = topk_small(curves[curves["topic"] == row.topic])
                st.plotly_chart(figure, config=charts.CONFIG, key=f"topk_small_{row.topic}")


def _show_summary(summary: pd.DataFrame) -> None:
    def number(label: str, term: str, format: str) -> Any:
        return st.column_config.NumberColumn(label, format=format, help=help_text(term))

    table = summary.assign(topic=summary["topic"].map(topic_title))
    table[list(_DIFFERENCES)] *= 100
    sparse = {f"difference_sparse_{k}": f"k = {k} without, %" for k in SPARSE_K if f"difference_sparse_{k}" in table}
    table[list(sparse)] *= 100
    st.dataframe(
        table,
        hide_index=True,
        key="topk_summary",
        height=38 + 35 * len(table),
        column_order=(
            "topic",
            "area",
            "area_chance",
            "area_linear",
            *_DIFFERENCES,
            *(f"dense_{k}" for k in SPARSE_K),
            *sparse,
            "tokens_aligned",
            "n_scored",
        ),
        column_config={
            "topic": st.column_config.TextColumn("topic", width=240, help=help_text("topic")),
            "area": number("area", "area", "%.3f"),
            "area_chance": number("chance", "chance", "%.3f"),
            "area_linear": number("linear area", "area", "%.3f"),
            **{name: number(f"k = {name.split('_')[1]}, %", "top-k", "%+.1f") for name in _DIFFERENCES},
            **{f"dense_{k}": number(f"dense at {k}", "dense", "%d") for k in SPARSE_K},
            **{name: number(label, "dense", "%+.1f") for name, label in sparse.items()},
            "tokens_aligned": number("tokens", "top-k", "localized"),
            "n_scored": number("neurons", "neuron", "localized"),
        },
    )


def _show_all(setup: Setup, store: Store) -> None:
    st.header("All bundled topics", anchor=False)
    about = (
        "It runs the bundled topics and the unaligned prompts through the model: about 15 seconds once it is loaded."
    )
    tables = experiment_tables(setup, store, "topk", TABLES, about)
    summary = tables["topk-summary"].sort_values("area", ascending=False)
    _show_ahead(tables)
    table_heading("Curves", "top-k", tables["topk"], setup.name, "top-k curves")
    st.caption(
        "As above, with the default scoring; largest area first. Green: the topic's text, grey: unaligned text. k goes "
        "from 1 to every scored neuron; the file has about 70 values of k."
    )
    _show_multiples(tables["topk"], summary)
    table_heading("Areas", "area", tables["topk-summary"], setup.name, "top-k areas")
    st.caption("Differences at k = 4, 16 and 64 in percentage points of tokens: topic's text - unaligned text.")
    _show_summary(summary)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("All topics' tokens", help=help_text("top-k tokens"), width="content")
        download_table(tables["topk-tokens"], setup.name, "top-k tokens")
        run_again(setup, store, "topk")


def _show_one(setup: Setup, store: Store) -> None:
    try:
        topic, settings = chosen_topic(), score_settings()
        if _may_load(setup):
            _show_topic(setup, store, topic, topic_top_k(setup, store, topic, settings))
    except SteerscopeError as exc:
        show_error(exc)


def main() -> None:
    enter("Does a topic's text fire its best neurons?")
    setup, store = open_chosen_store()
    topic_controls()
    one, every = st.container(), st.container()
    saved = is_saved(setup, TABLES)
    if saved:  # what is known is shown first: the typed topic needs the model
        with every:
            _show_all(setup, store)
    with one, st.spinner("Running the topic's text through the model ..."):
        _show_one(setup, store)
    if not saved:
        with every:
            _show_all(setup, store)


main()
