"""The results of saved alpha sweeps: windows in words, curves, neurons compared, every answer."""

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.results.names import Names
from core.sweep.windows import RULES, Windows, compare_neurons, find_windows, measured_figures
from pages.parts.special_tokens.sweeps import SavedSweep, neurons_with_sweep, saved_sweeps
from pages.shared.charts import figures as charts
from pages.shared.charts import sweep as charts_sweep
from pages.shared.charts.methods import swatches
from pages.shared.experiments import download_table
from pages.shared.glossary.index import TERMS, help_text
from pages.shared.names import NAME_COLUMN, linked, neuron_markdown

_CURVES = ("perplexity", "repetition", "distinct_2", "confidence")
_MAY_BE_MISSING = ("acceptability", "judge")
_CURVES_WHERE_MEASURED = (*_MAY_BE_MISSING, "language_switch")


def show_sweeps(setup: Setup, neuron: int, others: list[int], drawn: int | None, names: Names) -> None:
    """Shows the saved sweeps of the open neuron and of those beside it, or how to run one.

    Args:
        drawn: the random control, if there is one.
    """
    sweeps = saved_sweeps(setup, [neuron, *others, *([] if drawn is None else [drawn])])
    if neuron not in sweeps:
        swept = [number for number in neurons_with_sweep(setup) if number != neuron]
        known = f" Swept so far: {', '.join(neuron_markdown(names[number]) for number in swept)}." if swept else ""
        name = neuron_markdown(names[neuron])
        st.markdown(f"Neuron {name} has not been swept yet: **Sweep** shows how far it can be amplified.{known}")
        return
    sweep = sweeps[neuron]
    n_done, n_asked = sweep.rows["question"].nunique(), sweep.rows["n_questions"].iloc[0]
    if n_done < n_asked:
        st.caption(f"So far {n_done} of {n_asked} questions; **Sweep** goes on.")
    figures = measured_figures(sweep.rows)
    improved_by = st.selectbox(
        "Improvement is measured by",
        figures,
        format_func=lambda name: TERMS[name].title,
        width=240,
        help=help_text("improved"),
        key="improved_by",
        bind="query-params",
    )
    windows = find_windows(sweep.rows, improved_by)
    st.markdown(_in_words(windows, improved_by))
    lines = charts_sweep.neuron_lines(neuron, others, drawn, names)
    _show_curves(sweeps, neuron, {n: line for n, line in lines.items() if n in sweeps}, windows)
    if missing := [TERMS[name].title for name in _MAY_BE_MISSING if sweep.rows[name].isna().all()]:
        how = " A judge rates these answers by the command, with --judge." if sweep.rows["judge"].isna().all() else ""
        st.caption(f"Not available here: {' and '.join(missing)}.{how}", help=help_text("judge"))
    with st.expander("Rules of the windows"):
        for rule in RULES.values():
            st.markdown(rule)
    _show_comparison(sweeps, drawn, improved_by, setup, names)
    _show_all_answers(sweep, neuron, setup)


def _in_words(windows: Windows, figure: str) -> str:
    low, high = windows.harmless
    harmless = f"**Harmless** from {low:g} to {high:g}" if low < high else "**Harmless** at no alpha of this grid but 0"
    title = TERMS[figure].title.lower()
    improved = f"**{title} improved** nowhere within it"
    if windows.improved:
        start, end = windows.improved
        improved = f"**{title} improved** " + (f"at {start:g}" if start == end else f"from {start:g} to {end:g}")
    places = " and ".join(f"{alpha:g}" for alpha in windows.collapse)
    collapse = f"**collapse** at {places}" if places else "no **collapse** on this grid"
    return f"{harmless} · {improved} · {collapse}"


def _show_curves(
    sweeps: dict[int, SavedSweep], neuron: int, lines: dict[int, charts_sweep.Line], windows: Windows
) -> None:
    st.html(swatches(charts_sweep.legend_colours(lines), "band: 95% interval over the questions"))
    means = {n: sweep.means for n, sweep in sweeps.items()}
    measured = [name for name in _CURVES_WHERE_MEASURED if (means[neuron][name] > 0).any()]
    columns = st.columns(2, gap="medium")
    for place, name in enumerate([*_CURVES, *measured]):
        title = TERMS[name].title.lower()
        figure = charts_sweep.figure_over_alpha(means, lines, name, title, windows, log=name == "perplexity")
        columns[place % 2].plotly_chart(figure, config=charts.CONFIG, key=f"curve {name}")


def _show_comparison(
    sweeps: dict[int, SavedSweep], drawn: int | None, improved_by: str, setup: Setup, names: Names
) -> None:
    if len(sweeps) < 2:
        return
    table = compare_neurons({number: sweep.rows for number, sweep in sweeps.items()}, improved_by)
    table.insert(1, "control", table["neuron"] == drawn)
    st.subheader("Neurons compared", anchor=False)
    st.dataframe(
        table.assign(name=linked(names, table["neuron"])),
        hide_index=True,
        column_config={"name": NAME_COLUMN}
        | {
            name: st.column_config.NumberColumn(name.replace("_", " "), format="%.4g")
            for name in ("harmless_from", "harmless_to", "improved_from", "improved_to", "collapse", "largest_alpha")
        },
        column_order=[
            *("name", "control", "harmless_to", "improved_from", "improved_to", "collapse", "largest_alpha"),
            "questions",
        ],
    )
    download_table(table, setup.name, "sweeps compared")


@st.fragment
def _show_all_answers(sweep: SavedSweep, neuron: int, setup: Setup) -> None:
    """Every question's answer at one of the swept alphas, beside the unsteered one."""
    swept = {f"{alpha:g}": float(alpha) for alpha in sweep.means["alpha"]}
    st.subheader("All answers", anchor=False)
    start = list(swept)[min(2, len(swept) - 1)]
    if len(swept) > 1:
        start = st.select_slider("At alpha", list(swept), start, key="answers_at", bind="query-params", width=420)
    nearest = swept[start]
    by_question = sweep.rows.set_index("question").sort_index()
    amplified, unsteered = by_question[by_question["alpha"] == nearest], by_question[by_question["alpha"] == 0]
    names = ("perplexity", "distinct_2", "repetition", "confidence", "collapsed")
    table = pd.DataFrame(
        {"question": amplified["question_text"], "unsteered": unsteered["text"], "amplified": amplified["text"]}
    ).join(amplified[list(names)])
    st.dataframe(
        table,
        column_config={
            "_index": st.column_config.NumberColumn("#", width=30),
            **{name: st.column_config.TextColumn(name, width=170) for name in table.columns[:3]},
            **{
                name: st.column_config.NumberColumn(
                    TERMS[name].title.lower(), format="%.3g", width=76, help=help_text(name)
                )
                for name in names[:-1]
            },
            "collapsed": st.column_config.CheckboxColumn("collapsed", width=70, help=RULES["collapsed"]),
        },
    )
    download_table(sweep.rows.drop(columns="run"), setup.name, f"sweep {neuron}")
