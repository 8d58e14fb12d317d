"""The Distributions page: how scores are distributed, and Kendall's tau between the rankings of the settings."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.evaluation.experiments import ALL_TOPICS
from pages.shared.charts import figures as charts
from pages.shared.charts.distributions import Spread, tau_heat_map, tau_matrix, violins
from pages.shared.entry import enter
from pages.shared.experiments import download_table, experiment_tables, run_again, table_heading
from pages.shared.glossary.index import help_text
from pages.shared.links import link_button
from pages.shared.messages import show_error
from pages.shared.resources import app_store, saved_result
from pages.shared.setups import open_chosen_store
from pages.shared.tokens import legend
from pages.shared.topics import topic_title

FIGURES, QUANTILES = "distributions", "distributions-quantiles"
DRAWS = "distributions-draws"
TAU, AGREEMENT = "distributions-tau", "distributions-agreement"
VARIES = ("topic", "setup", "summary", "prompts")
VALUES = ("score", "g")
STRAWMAN = "strawman"
RANKINGS: dict[str, tuple[str, ...] | None] = {  # None: all rankings
    "summaries": ("sum", "max", "mean", "count", STRAWMAN),
    "powers of the distance": ("sum", "sum, squared", "sum, squared twice", STRAWMAN),
    "all": None,
}


def _bound(key: str) -> dict[str, Any]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": f"distributions_{key}", "bind": "query-params"}


# ---- violins ----


@dataclass(frozen=True)
class _Choice:
    """What differs between the violins, and what is the same in all of them."""

    varies: str
    value: str
    fixed: dict[str, Any]  # topic, summary and number of prompts, without the one that varies


def _choose(figures: pd.DataFrame) -> _Choice:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        varies = st.segmented_control(
            "A violin for each", VARIES, default=VARIES[0], required=True, help=help_text("violin"), **_bound("varies")
        )
        value = st.segmented_control(
            "Of", VALUES, default=VALUES[0], required=True, help=help_text("g"), **_bound("value")
        )
        fixed: dict[str, Any] = {}
        if varies != "topic":
            topics = list(dict.fromkeys(figures["topic"]))
            fixed["topic"] = st.selectbox("Topic", topics, format_func=topic_title, width=220, **_bound("topic"))
        if varies != "summary":
            fixed["summary"] = st.segmented_control(
                "Summary",
                list(dict.fromkeys(figures["summary"])),
                default="sum",
                required=True,
                help=help_text("summary"),
                **_bound("summary"),
            )
        if varies != "prompts":
            sizes = sorted(set(figures["prompts"]), reverse=True)
            fixed["prompts"] = st.segmented_control(
                "Prompts", sizes, default=sizes[0], required=True, help=help_text("format"), **_bound("prompts")
            )
    return _Choice(varies, value, fixed)


def _with_others(setup: Setup, tables: dict[str, pd.DataFrame], choice: _Choice) -> dict[str, pd.DataFrame]:
    """The two tables with a column setup; if setups are compared, with the rows of all that have results."""
    names = [setup.name]
    if choice.varies == "setup":
        saved = app_store().results()
        names += sorted(set(saved.loc[saved["what"] == QUANTILES, "setup"]) - {setup.name})
    parts: dict[str, list[pd.DataFrame]] = {FIGURES: [], QUANTILES: []}
    for name in names:
        for what, found in parts.items():
            table = tables[what] if name == setup.name else app_store().result(name, what)
            if table is not None:
                found.append(table.assign(setup=name))
    return {what: pd.concat(found, ignore_index=True) for what, found in parts.items()}


def _chosen(table: pd.DataFrame, fixed: dict[str, Any]) -> pd.DataFrame:
    for name, value in fixed.items():
        table = table[table[name] == value]
    return table


def _label(varies: str, value: Any) -> str:
    if varies == "topic":
        return topic_title(value)
    return f"{value} prompts" if varies == "prompts" else str(value)


def _spreads(tables: dict[str, pd.DataFrame], choice: _Choice) -> list[Spread]:
    figures, drawn = (_chosen(tables[what], choice.fixed) for what in (FIGURES, QUANTILES))
    n_scored = figures.set_index(choice.varies)["n_scored"]
    return [
        Spread(_label(choice.varies, name), rows[choice.value].to_numpy(), int(n_scored[name]))
        for name, rows in drawn.groupby(choice.varies, sort=False)
    ]


def _show_violins(setup: Setup, tables: dict[str, pd.DataFrame]) -> None:
    choice = _choose(tables[FIGURES])
    try:
        spreads = _spreads(_with_others(setup, tables, choice), choice)
    except SteerscopeError as exc:
        show_error(exc)
        return
    if not spreads:
        st.markdown("No distribution has these settings: choose another number of prompts.")
        return
    title = "score" if choice.value == "score" else "g, distance of the neuron's prompts from the topic"
    st.plotly_chart(violins(spreads, title), config=charts.CONFIG, key="distributions_violins")
    if choice.varies == "setup" and len(spreads) == 1:
        st.caption("Other setups, other layers and SAEs, stand beside this one once theirs are computed:")
        st.code("python -m core evaluate SETUP --what distributions", language=None, wrap_lines=True)
    st.caption(_format_effect(tables[FIGURES], saved_result(setup.name, DRAWS)), help=help_text("format"))
    with st.container(horizontal=True, vertical_alignment="center"):
        download_table(tables[QUANTILES], setup.name, "score quantiles")
        link_button()


def _format_effect(figures: pd.DataFrame, draws: pd.DataFrame | None) -> str:
    """How more prompts of a topic change the scores and g (in the paper the scores rise), and how much that varies."""
    by_size = figures[figures["summary"] == "sum"].pivot(index="topic", columns="prompts").dropna()
    sizes = sorted(set(figures["prompts"]))
    if len(sizes) != 2 or by_size.empty:
        return "Tick: median."
    few, many = sizes
    score, g = by_size["score_median"], by_size["g_median"]
    return (
        f"Tick: median. With {many} prompts of a topic instead of its first {few}, the median score is higher in "
        f"{int((score[many] > score[few]).sum())} of {len(by_size)} topics (the paper: scores shift up), the median g "
        f"lower in {int((g[many] < g[few]).sum())}." + _draws_words(draws, score[many])
    )


def _draws_words(draws: pd.DataFrame | None, whole: pd.Series) -> str:
    """How much the scores depend on which few prompts were drawn; nothing where none were."""
    if draws is None:
        return ""
    by_topic = draws.groupby("topic")["score_median"]
    above = (whole.reindex(by_topic.max().index) > by_topic.max()).sum()
    spread = (by_topic.max() - by_topic.min()).mean()
    return (
        f" Of {draws['draw'].nunique()} random draws of as few, the medians lie {spread:.3f} apart (mean over topics), "
        f"and all below that of all prompts in {above} topics."
    )


def _show_figures(setup: Setup, figures: pd.DataFrame) -> None:
    table_heading("In figures", "violin", figures, setup.name, "score distributions")
    numbers = {
        name: st.column_config.NumberColumn(name.replace("_", " "), format="%.3f", help=help_text(name.split("_")[0]))
        for name in figures.columns[4:]
    }
    st.dataframe(
        figures.assign(topic=figures["topic"].map(topic_title)),
        hide_index=True,
        height=320,
        key="distributions_figures",
        column_config={
            "n_scored": st.column_config.NumberColumn("neurons", format="localized", help=help_text("neuron")),
            "prompts": st.column_config.NumberColumn("prompts", help=help_text("format")),
            "summary": st.column_config.TextColumn("summary", help=help_text("summary")),
            **numbers,
        },
    )


# ---- Kendall's tau ----


def _choose_tau(tau: pd.DataFrame) -> tuple[str, list[str]]:
    """The topic (or the mean over topics), and the rankings to compare."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        topics = [ALL_TOPICS, *(name for name in dict.fromkeys(tau["topic"]) if name != ALL_TOPICS)]
        topic = st.selectbox(
            "Topic",
            topics,
            format_func=lambda name: f"mean of {len(topics) - 1}" if name == ALL_TOPICS else topic_title(name),
            width=220,
            **_bound("tau_topic"),
        )
        chosen = st.segmented_control(
            "Rankings",
            list(RANKINGS),
            default="summaries",
            required=True,
            help=help_text("powers"),
            **_bound("rankings"),
        )
    every = list(dict.fromkeys([*tau["first"], *tau["second"]]))
    return topic, list(RANKINGS[chosen] or every)


def _show_tau(setup: Setup, tables: dict[str, pd.DataFrame]) -> None:
    tau, agreement = tables[TAU], tables[AGREEMENT].set_index("between")
    table_heading("Do the settings order neurons alike?", "kendall", tau, setup.name, "kendall tau")
    st.markdown(
        f"Mean tau between summaries **{agreement.loc['summaries', 'tau']:.3f}**, between all settings of the score "
        f"**{agreement.loc['all settings', 'tau']:.3f}** (published: 0.741), between score and strawman "
        f"**{agreement.loc['score and strawman', 'tau']:.3f}**.",
        help=help_text("strawman"),
    )
    topic, rankings = _choose_tau(tau)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        matrix = tau_matrix(tau[tau["topic"] == topic], rankings)
        figure = tau_heat_map(matrix, st.context.theme.type or "light")
        st.plotly_chart(figure, config=charts.CONFIG, key="distributions_tau")
        st.html(legend("0 and below", "1", "tau"))
    with right:
        _show_agreement(setup, tables[AGREEMENT])


def _show_agreement(setup: Setup, agreement: pd.DataFrame) -> None:
    ends = "Of all pairs and topics"
    columns = {
        name: st.column_config.NumberColumn(name, format="%.3f", width=62, help=explained)
        for name, explained in {"tau": help_text("kendall"), "lowest": ends, "highest": ends}.items()
    }
    st.dataframe(
        agreement,
        hide_index=True,
        key="distributions_agreement",
        column_config={
            "between": st.column_config.TextColumn("between", width=152),
            "pairs": st.column_config.NumberColumn(
                "pairs", width=46, help="Of rankings; tau is their mean, over all topics"
            ),
            **columns,
        },
    )
    st.caption(
        "Over the scored neurons. A summary alone stands for the plain distance. The Topic Alignment paper (A.3) has "
        "0.741 on average over its combinations of summaries and distances, on other models and prompts."
    )
    download_table(agreement, setup.name, "kendall tau means")


def main() -> None:
    enter("How do scores spread?")
    setup, store = open_chosen_store()
    about = "It scores the 15 bundled topics under 16 settings and runs their prompts through the model: half a minute."
    tables = experiment_tables(setup, store, "distributions", (FIGURES, QUANTILES, TAU, AGREEMENT), about)
    _show_violins(setup, tables)
    _show_tau(setup, tables)
    _show_figures(setup, tables[FIGURES])
    run_again(setup, store, "distributions")


main()
