"""The ratings that count on the page, and what they say: shares, distributions, agreement."""

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import StoreError
from core.interpretability.agreement import agreement, current, rater_names, shares
from core.interpretability.contexts import FROM_STORE
from core.results.published import training_method
from core.results.ratings import COLUMNS, RatingStore
from core.settings import store_root
from pages.parts.interpretability.published import published_points, published_shares, show_source
from pages.shared.charts.colours import Theme
from pages.shared.charts.figures import CONFIG
from pages.shared.charts.interpretability import cumulative, high_shares, score_shares
from pages.shared.charts.methods import METHODS, method_swatches
from pages.shared.experiments import table_heading
from pages.shared.glossary.index import help_text
from pages.shared.messages import count
from pages.shared.resources import open_store, setups

_ORDER = (*METHODS, None)  # FAST first, an SAE of no such method last


def rating_store() -> RatingStore:
    return RatingStore(store_root())


def current_ratings() -> tuple[pd.DataFrame, int]:
    """The ratings of the SAEs that are here, and how many others there are.

    Raises:
        StoreBusyError, StoreDamagedError: see `AppStore`.
    """
    store = rating_store()
    if not store.path.exists():
        return pd.DataFrame(columns=[*COLUMNS]), 0
    ratings = store.ratings()
    fingerprints = {}
    for name in ratings["setup"].unique():
        try:
            fingerprints[name] = open_store(name).meta["fingerprint"]
        except StoreError:  # not built here any more, so that nothing can be said of its neurons
            continue
    mine = current(ratings, fingerprints)
    return mine, len(ratings) - len(mine)


def _method(name: str) -> str | None:
    known: dict[str, tuple[Setup, list[str]]] = setups()
    method = training_method(known[name][0].sae) if name in known else None
    return method if method in METHODS else None


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `shares` with their methods and labels, FAST first; the source is named where it is not the store."""
    methods = {name: _method(name) for name in table["setup"].unique()}
    source = table["source"].map(lambda text: "" if text == FROM_STORE else f", {text}")
    label = table["setup"] + source + ", " + rater_names(table)
    table = table.assign(method=table["setup"].map(methods), label=label)
    order = table["method"].map(lambda method: _ORDER.index(method if method in METHODS else None))
    return table.assign(order=order).sort_values(["rater", "order", "setup"], ignore_index=True).drop(columns="order")


def show_shares(ratings: pd.DataFrame) -> None:
    """The charts and the table of shares; with no ratings, what is published alone."""
    ours = _labelled(shares(ratings))
    both = pd.concat([ours.assign(published=False), published_shares()], ignore_index=True)
    st.html(method_swatches("filled: rated here; hollow: published"))
    left, right = st.columns([3, 2], gap="medium")
    with left:
        st.markdown("**Share of neurons rated 4 or 5**", help=help_text("share 4-5"))
        st.plotly_chart(high_shares(both), config=CONFIG, key="interpret_high")
    if ours.empty:
        with right:
            show_source()
        return
    with right:
        st.markdown("**Share rated so or lower**", help=help_text("interpretability"))
        st.plotly_chart(cumulative(ours, published_points()), config=CONFIG, key="interpret_cdf")
    show_source()
    theme: Theme = "dark" if st.context.theme.type == "dark" else "light"
    st.markdown("**All scores**", help=help_text("interpretability"))
    st.plotly_chart(score_shares(ours, theme), config=CONFIG, key="interpret_scores")
    _show_table(ours)


def _show_table(table: pd.DataFrame) -> None:
    table_heading("By SAE and rater", "rater", table, "interpretability shares")
    percent = {name: 100 * table[name] for name in ("share_4_5", "low", "high", "below_3")}
    st.dataframe(
        table.assign(**percent),
        hide_index=True,
        key="interpret_table",
        column_order=("setup", "source", "rater", "n", "share_4_5", "low", "high", "below_3", "mean", "unanswered"),
        column_config={
            "rater": st.column_config.TextColumn("rater", help=help_text("rater")),
            "n": st.column_config.NumberColumn("neurons", help=help_text("rated neurons")),
            "share_4_5": st.column_config.NumberColumn("rated 4-5", format="%.1f%%", help=help_text("share 4-5")),
            "low": st.column_config.NumberColumn("from", format="%.1f%%", help="Lower end of its 95% interval"),
            "high": st.column_config.NumberColumn("to", format="%.1f%%", help="Upper end of its 95% interval"),
            "below_3": st.column_config.NumberColumn("below 3", format="%.1f%%"),
            "mean": st.column_config.NumberColumn("mean", format="%.2f", help=help_text("interpretability")),
            "unanswered": st.column_config.NumberColumn("no valid answer", help="Asked three times, without a score"),
        },
    )


def show_agreement(ratings: pd.DataFrame) -> None:
    """How far raters agree, where two rated the same neurons."""
    if ratings[["kind", "rater"]].drop_duplicates().shape[0] < 2:
        return
    table = agreement(ratings)
    if table.empty:
        st.caption("No two raters have rated the same neuron yet: there is no agreement to measure.")
        return
    table_heading("Do raters agree?", "kappa", table, "interpretability agreement")
    st.dataframe(
        table,
        hide_index=True,
        key="interpret_agreement",
        column_order=("first", "second", "n", "same", "kappa", "kappa_weighted", "kappa_weighted_low",
                      "kappa_weighted_high", "difference"),
        column_config={
            "n": st.column_config.NumberColumn("neurons"),
            "same": st.column_config.NumberColumn("same score", format="percent"),
            "kappa": st.column_config.NumberColumn("kappa", format="%.2f", help=help_text("kappa")),
            "kappa_weighted": st.column_config.NumberColumn(
                "weighted", format="%.2f", help=help_text("kappa weighted")
            ),
            "kappa_weighted_low": st.column_config.NumberColumn("from", format="%.2f", help="Of the weighted kappa"),
            "kappa_weighted_high": st.column_config.NumberColumn("to", format="%.2f", help="Of the weighted kappa"),
            "difference": st.column_config.NumberColumn(
                "first - second", format="%.2f", help="Difference of their mean scores"
            ),
        },
    )  # fmt: skip


def say_others(others: int) -> None:
    if others:
        st.caption(f"{count(others, 'rating')} left out: of setups that are not built here, or of an earlier SAE.")
