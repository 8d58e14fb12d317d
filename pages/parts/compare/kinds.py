"""The kinds of collected rows, and the columns of each."""

import pandas as pd

from pages.shared.columns import FIGURES

KINDS = {"text": "Texts", "sweep": "Amplified answers", "neuron": "Neurons", "inspected": "Neurons on texts"}
FIRST = {
    "text": ("edit", "topic", "text", *(figure for figure, _, _ in FIGURES), "n_tokens", "prompt", "setup"),
    "sweep": ("neuron", "alpha", "question", "text", "perplexity", "distinct_2", "repetition", "confidence", "setup"),
    "neuron": ("neuron", "topic", "score", "rank", "g", "prompts", "case", "top_tokens", "setup"),
    "inspected": ("neuron", "name", "text", "sum", "max", "tokens", "topic", "rank", "score", "setup"),
}
_WHOLE = ("id", "neuron", "rank", "prompts", "seed", "max_new_tokens", "top_k", "n", "n_tokens", "tokens")


def of_kind(collected: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of one kind with only that kind's columns, the most important first."""
    mine = collected[collected["kind"] == kind].drop(columns="kind").dropna(axis="columns", how="all")
    first = [name for name in FIRST[kind] if name in mine]
    mine = mine[[*first, *(name for name in mine if name not in first)]]
    # rows of other kinds have no value, so whole numbers came back as floats
    whole = {name: "Int64" for name in _WHOLE if name in mine}
    return mine.infer_objects().astype(whole).reset_index(drop=True)
