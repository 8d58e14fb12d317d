"""What the times of the Cost page come to, in a sentence."""

import math

import pandas as pd
import streamlit as st

from pages.shared.columns import number
from pages.shared.glossary.index import help_text
from pages.shared.messages import count


def topics_to_repay(cost: pd.DataFrame) -> float:
    """After how many topics the build, done once, has taken less time than fine-tuning on each; NaN if unknown."""
    seconds = cost.set_index(["task", "edit"])["seconds"]
    saved = seconds["per topic", "ft"] - seconds["per topic", "swap"]
    return math.ceil(seconds["set-up", "swap"] / saved) if saved > 0 and seconds["set-up", "swap"] > 0 else math.nan


def show_sentence(cost: pd.DataFrame) -> None:
    """The time of a new topic, scored or fine-tuned on, of writing under swap, and when the store is worth building."""
    seconds = cost.set_index(["task", "edit"])["seconds"]
    over = seconds["per prompt", "swap"] / seconds["per prompt", "none"]
    said = (
        f"A new topic takes **{number(seconds['per topic', 'swap'])} s** to score and "
        f"**{number(seconds['per topic', 'ft'])} s** to fine-tune on; writing under swap takes **{over:.2f}** times as "
        "long as unsteered."
    )
    if math.isfinite(repaid := topics_to_repay(cost)):
        said += f" The store, built once, has paid for itself after **{count(int(repaid), 'topic')}**."
    st.markdown(said, help=help_text("cost"))
