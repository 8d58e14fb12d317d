"""How do FAST and block training compare? Our own SAEs, those that were shipped, and the paper's published errors."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from core.errors import SteerscopeError
from core.published import published, shipped_autoencoders, shipped_results
from core.training.method_comparison import at_matched_l0, compared, with_sparsity_in_force
from pages.shared import charts
from pages.shared import training_charts as training
from pages.shared.entry import enter
from pages.shared.experiments import download_table
from pages.shared.glossary import help_text
from pages.shared.links import link_button
from pages.shared.messages import count, plain, show_error
from pages.shared.resources import app_store

COMMAND = "python -m core train data/configs/example_sae_grid.toml"
COMPARISON_CONFIG = "data/configs/demo_chat_comparison.toml"
PAPER = (
    "From *Training Superior Sparse Autoencoders for Instruct Models*, arXiv:2506.07691, tables D.2 to D.7: published "
    "figures, none measured here. How the MSE was transformed is lost in the text; log2 is our reading."
)
_METHOD_TEXTS = {
    "fast": "Each conversation is run **alone**, in the model's chat template: the model reads what it reads in use.",
    "btp": "**Plain text**, concatenated, cut into blocks of one length. A block may hold the end of one document and "
    "the beginning of the next, and never a role word.",
    "btf": "The **same conversations** as FAST, concatenated and cut like BT(P): most blocks begin within one.",
}
_FIGURES = {
    "mse_special_by_sequence": "log2 MSE, special tokens",
    "mse_all_by_sequence": "log2 MSE, all tokens",
    "mse_special_without_roles_by_sequence": "log2 MSE, special tokens without role words",
    "explained_variance": "explained variance",
    "ce_recovered": "cross-entropy recovered",
    "dead_share": "dead neurons, share",
}
_CARD_FIGURES = (  # column, heading, term, format, pixels
    ("mse_all_log2", "all, log2", "mse", "%.3f", 66),
    ("mse_special_log2", "special, log2", "mse special", "%.3f", 86),
    ("l0", "L0", "l0", "%.1f", 46),
    ("explained_variance", "expl. variance", "explained_variance", "%.3f", 92),
    ("dead_share", "dead", "dead_share", "percent", 54),
    ("ce_recovered", "CE recovered", "ce_recovered", "%.3f", 88),
)
_LAYERS_WIDTH = 170  # pixels: two side by side on a phone
_TOKENS = {"special": "special tokens", "all": "all tokens"}


def _bound(key: str) -> dict[str, Any]:
    """A widget's key, in the link too."""
    return {"key": f"training_{key}", "bind": "query-params"}


def _explain() -> None:
    st.html(training.swatches(training.KINDS, f"A, B, C: three texts; blocks of {training.EXAMPLE_BLOCK} tokens"))
    st.plotly_chart(training.batches(), config=charts.CONFIG, key="training_batches")
    for column, (method, text) in zip(st.columns(3, gap="medium"), _METHOD_TEXTS.items(), strict=True):
        column.markdown(f"**{training.METHODS[method]}**  \n{text}", help=help_text(method))
    st.caption(
        "Each bar is a forward pass of the language model. What follows is the same for the three: activations are "
        "shuffled in a mixing buffer, and the SAE sees one vector at a time (of BT(P), none of a special token)."
    )


@dataclass(frozen=True)
class _Run:
    """A training run's tables, as `python -m core train` saves them."""

    name: str
    training: pd.DataFrame
    losses: pd.DataFrame | None


def _saved_names() -> list[str]:
    """Names of the training results in the app's store, the latest first."""
    saved = app_store().results()
    return list(saved[saved["what"] == "training"].sort_values("saved_at", ascending=False)["setup"])


def _choose_run(saved: list[str]) -> _Run | None:
    """The run that is shown: of `saved`, or of those that come with the app; None where there are none.

    Raises:
        SteerscopeError: the app's store cannot be read.
    """
    shipped = {f"{name} (shipped)": name for name in shipped_results("training")}
    names = [*saved, *shipped]
    if not names:
        return None
    if (asked := st.query_params.get("training_run")) is not None and asked not in names:
        st.warning(plain(f"The link asks for a run '{asked}', which is not among these."))
    chosen = st.selectbox(
        "Run",
        names,
        help="What `python -m core train` saved here, by the name in its config, and what comes with the app",
        width=320,
        **_bound("run"),
    )
    if chosen in shipped:
        name = shipped[chosen]
        return _Run(chosen, shipped_results("training")[name], shipped_results("losses").get(name))
    table = app_store().result(chosen, "training")
    assert table is not None  # just listed
    return _Run(chosen, table, app_store().result(chosen, "losses"))


def _show_results() -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.header("Trained with Steerscope", anchor=False)
        link_button()
    saved: list[str] = []
    try:
        if not (saved := _saved_names()):
            st.markdown("Nothing trained here yet. This trains one SAE by each method, in a few minutes on two cores:")
            st.code(COMMAND, language=None)
    except SteerscopeError as exc:  # what comes with the app can still be shown
        show_error(exc)
    try:
        run = _choose_run(saved)
    except SteerscopeError as exc:
        show_error(exc)
        return
    if run is not None:
        _show_run(run)


def _show_run(run: _Run) -> None:
    """What failed; the figures as trained and at one L0; the losses."""
    failed = run.training[run.training["error"].notna()]
    if len(failed):
        first, of_all = failed.iloc[0], count(len(run.training), "job")
        st.warning(plain(f"{len(failed)} of {of_all} failed. {first['name']}: {first['error']}"))
    results = with_sparsity_in_force(run.training[run.training["folder"].notna()])
    if results.empty:
        return
    _show_as_trained(run, results)
    st.subheader("At one L0", anchor=False, help=help_text("matched l0"))
    with st.container(horizontal=True, gap="medium"):
        title, group = _choose_group(results)
        figure = _choose_figure()
        l0 = _choose_l0(group)
    _show_matched(run, group, figure, l0)
    _show_losses(run, group, title)


def _show_table(rows: pd.DataFrame, *name: str, mark_best: bool) -> None:
    """Rows of `compared` as a table, the settings they share below it."""
    rows = training.in_order(rows)
    st.html(training.results_html(rows, mark_best=mark_best))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(plain(training.shared_settings(rows)), width="stretch")
        download_table(rows, *name)


def _show_as_trained(run: _Run, results: pd.DataFrame) -> None:
    st.subheader(
        "As trained", anchor=False, help="Mean ± spread over seeds, on held-out text, the same for all methods"
    )
    _show_table(compared(results), run.name, "as trained", mark_best=False)


def _choose_group(results: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The results of one model, hook point, expansion and architecture, and what these are in words."""
    groups = {training.group_label(key): rows for key, rows in results.groupby(training.GROUP)}
    label = st.selectbox("SAEs", list(groups), width=370, help="Which SAEs are compared here", **_bound("group"))
    return label, groups[label]


def _choose_figure() -> str:
    figure: str = st.selectbox(
        "Figure",
        list(_FIGURES),
        format_func=lambda name: _FIGURES[name],
        width=270,
        help="What the picture shows",
        **_bound("figure"),
    )
    return figure


def _choose_l0(group: pd.DataFrame) -> int | None:
    """The L0 to compare at; None where there are no two SAEs of a method and seed to interpolate between."""
    reach = group.groupby(["method", "seed"])["l0"].agg(["min", "max"])
    reach = reach[reach["min"] < reach["max"]]
    low, high = reach["min"].min(), reach["max"].max()
    if reach.empty or math.ceil(low) >= math.floor(high):
        return None
    middle = (reach["min"].max() + reach["max"].min()) / 2  # of what all reach, where there is such an L0
    default = round(min(max(middle, low), high))
    chosen: int = st.slider(
        "L0", math.floor(low), math.ceil(high), default, help=help_text("matched l0"), width=220, **_bound("l0")
    )
    return chosen


def _show_matched(run: _Run, group: pd.DataFrame, figure: str, l0: int | None) -> None:
    st.html(training.method_swatches("bars: spread over seeds"))
    picture = training.errors_against_l0(compared(group), figure, _FIGURES[figure], l0)
    st.plotly_chart(picture, config=charts.CONFIG, key="training_frontier")
    if l0 is None:
        st.caption(
            "No method has SAEs of different L0 here, so there is nothing to interpolate between. "
            f"{COMPARISON_CONFIG} trains three lambdas by each."
        )
        return
    matched = at_matched_l0(group, l0)
    if len(matched):
        _show_table(matched, run.name, f"at L0 {l0}", mark_best=True)
    absent = set(group["method"]) - set(matched["method"])
    if titles := [title for method, title in training.METHODS.items() if method in absent]:
        st.caption(f"No figures for {', '.join(titles)}: all SAEs lie on one side of this L0.")


def _show_losses(run: _Run, group: pd.DataFrame, title: str) -> None:
    st.subheader("While training", anchor=False)
    if run.losses is None or run.losses.empty:
        st.caption("No losses were saved with this run.")
        return
    curve = st.segmented_control(
        "Curve",
        list(training.CURVES),
        default="loss",
        required=True,
        format_func=lambda name: training.CURVES[name].title,
        help=help_text("training loss"),
        **_bound("curve"),
    )
    losses = run.losses.merge(group[["name", "method", "architecture", "sparsity", "seed"]], on="name")
    st.html(training.method_swatches("a line an SAE"))
    st.plotly_chart(training.loss_curves(losses, curve), config=charts.CONFIG, key="training_losses")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(plain(title), width="stretch")
        download_table(losses, run.name, "losses")


def _show_shipped() -> None:
    st.header("SAEs that come with the app", anchor=False)
    try:
        cards = shipped_autoencoders()
    except SteerscopeError as exc:
        show_error(exc)
        return
    if cards.empty:
        st.markdown("None is here.")
        return
    shown = cards.assign(
        hook_name=cards["hook_name"].map(lambda name: name.rpartition(".")[0], na_action="ignore"),
        method=cards["method"].map(training.METHODS),
        architecture=cards["architecture"].map(lambda name: training.ARCHITECTURES.get(name, name)),
    )
    figures = {
        column: st.column_config.NumberColumn(label, format=format, width=width, help=help_text(term))
        for column, label, term, format, width in _CARD_FIGURES
    }
    st.dataframe(
        shown,
        hide_index=True,
        key="training_cards",
        placeholder="n/a",
        column_order=("name", "hook_name", "method", "architecture", "d_sae", "tokens", *figures),
        column_config={
            **figures,
            "name": st.column_config.TextColumn("name", width=160),
            "hook_name": st.column_config.TextColumn("hook point", width=84),
            "method": st.column_config.TextColumn("method", width=58, help="How batches were formed: see above"),
            "architecture": st.column_config.TextColumn("architecture", width=84),
            "d_sae": st.column_config.NumberColumn("neurons", width=62, format="localized", help=help_text("neuron")),
            "tokens": st.column_config.NumberColumn(
                "trained on", width=68, format="compact", help="Activations that it was trained on"
            ),
        },
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            "On held-out text, as their cards have it: SAEs of one language model compare, those of two do not. 'all' "
            "leaves special tokens out where the text is plain.",
            width="stretch",
        )
        download_table(cards, "shipped SAEs")


def _filter_published(table: pd.DataFrame) -> tuple[pd.DataFrame, str, str]:
    """The rows that the filters leave, with the chosen architecture and kind of tokens.

    A filter offers what those before it leave, so that some rows always remain.
    """
    with st.container(horizontal=True, gap="medium"):
        for name, title, width in (("model", "Model", 400), ("layer", "Layer", 180), ("expansion", "Expansion", 140)):
            chosen = st.multiselect(
                title,
                sorted(table[name].unique().tolist()),
                placeholder="all",
                help="Only SAEs with one of these; none chosen: all",
                width=width,
                **_bound(f"paper_{name}"),
            )
            if chosen:
                table = table[table[name].isin(chosen)]
        architecture = st.segmented_control(
            "Architecture",
            ["standard", "jumprelu"],
            default="jumprelu",
            required=True,
            format_func=lambda name: training.ARCHITECTURES[name],
            help="The paper trained both",
            **_bound("paper_architecture"),
        )
        tokens = st.segmented_control(
            "Error over",
            list(_TOKENS),
            default="special",
            required=True,
            format_func=lambda name: _TOKENS[name],
            help=help_text("special tokens"),
            **_bound("paper_tokens"),
        )
    return table[(table["architecture"] == architecture) & (table["tokens"] == tokens)], architecture, tokens


def _show_layers(rows: pd.DataFrame) -> None:
    """A small picture a model, all on one axis."""
    edge = 0.05 * (rows["log2_mse"].max() - rows["log2_mse"].min()) + 0.1
    low, high = rows["log2_mse"].min() - edge, rows["log2_mse"].max() + edge
    st.html(training.method_swatches("solid x8, dotted x16 · log2 MSE by layer, lower is better"))
    with st.container(horizontal=True, gap="small"):
        for model in dict.fromkeys(rows["model"]):
            with st.container(width=_LAYERS_WIDTH, gap=None):
                st.caption(plain(model))
                picture = training.published_layers(rows[rows["model"] == model], low, high)
                st.plotly_chart(picture, config=charts.CONFIG, key=f"training_layers_{model}")


def _show_published() -> None:
    st.header("Published by the paper", anchor=False)
    st.markdown(PAPER)
    rows, architecture, tokens = _filter_published(published("fast_mse"))
    _show_layers(rows)
    table = rows.pivot(
        index=["table", "model", "layer", "expansion"], columns="method", values="log2_mse"
    ).reset_index()
    best = (table["fast"] < table[["btp", "btf"]].min(axis=1)).sum()
    st.markdown(
        f"**Published log2 MSE, {training.ARCHITECTURES[architecture]}, {_TOKENS[tokens]}**: FAST has the lowest in "
        f"{best} of {count(len(table), 'row')}.",
        help=help_text("mse"),
    )
    table["gain"] = table[["btp", "btf"]].min(axis=1) - table["fast"]
    methods = {
        method: st.column_config.NumberColumn(title, format="%.4f", help=help_text(method))
        for method, title in training.METHODS.items()
    }
    st.dataframe(
        table,
        hide_index=True,
        key="training_published",
        column_order=("model", "layer", "expansion", *methods, "gain", "table"),
        column_config={
            **methods,
            "expansion": st.column_config.NumberColumn("expansion", format="x%d"),
            "gain": st.column_config.NumberColumn(
                "better BT - FAST", format="%.4f", help="Above 0: FAST has the lower error; 1 is half the error"
            ),
        },
    )
    download_table(table, "published", architecture, tokens)


def main() -> None:
    enter("How do FAST and block training compare?")
    _explain()
    _show_results()
    _show_shipped()
    _show_published()


main()
