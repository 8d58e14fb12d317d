"""What the FAST paper published of interpretability, in the form of our own rows."""

import math

import pandas as pd
import streamlit as st

from core.results.published import published
from pages.shared.charts.methods import METHODS

PAPER = (
    "Hollow: published in *Training Superior Sparse Autoencoders for Instruct Models*, arXiv:2506.07691, section 5 "
    "(JumpReLU, 128 neurons an SAE, GPT-4o); all figures that its text has. For Qwen2.5-3B it prints the distribution "
    "at score 3, here turned into the share above; its expansion is not said. None was measured here."
)
_ORDER = tuple(METHODS)


def _table() -> pd.DataFrame:
    table = published("fast_interpretability")
    expansion = table["expansion"].map(lambda factor: "" if pd.isna(factor) else f" x{factor:.0f}")
    label = "published " + table["model"].str.removesuffix("-Instruct") + expansion
    table = table.assign(label=label + ", " + table["method"].map(METHODS))
    return table.sort_values(["model", "method"], key=lambda c: c.map(_rank) if c.name == "method" else c)


def _rank(method: str) -> int:
    return _ORDER.index(method)


def published_shares() -> pd.DataFrame:
    """Published shares of neurons rated 4 or 5: label, method, published, share_4_5; low and high are not published."""
    table = _table()
    printed = table["statistic"] == "share_4_5"
    shares = table["value"].where(printed, 1 - table["value"])
    table = table.assign(published=True, share_4_5=shares, low=math.nan, high=math.nan)
    return table[["label", "method", "published", "share_4_5", "low", "high"]]


def published_points() -> pd.DataFrame:
    """The same as points of the cumulative distribution at score 3: label, method, score, share."""
    shares = published_shares()
    return shares.assign(score=3, share=1 - shares["share_4_5"])


def show_source() -> None:
    st.caption(PAPER)
