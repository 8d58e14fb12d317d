"""The ranking on the Topic page: scores, with what the store and other measurements say about each neuron."""

import pandas as pd

from core.results.export import export_bytes
from core.scoring.scores import TopicScores
from core.store.reader import Store


def ranking(store: Store, scores: TopicScores, n: int | None = None, *more: pd.DataFrame) -> pd.DataFrame:
    """The scored neurons, best first, at most `n`: the columns of `TopicScores.ranked` and of `Store.neurons`.

    Args:
        more: tables with a column `neuron` whose other columns are added.
    """
    ranked = scores.ranked(n)
    known = store.neurons(None if n is None else ranked["neuron"].tolist())
    for table in (known[["neuron", "tokens", "mean", "max", "top_tokens", "histogram"]], *more):
        ranked = ranked.merge(table, on="neuron", how="left")
    return ranked


def ranking_csv(store: Store, scores: TopicScores, *more: pd.DataFrame) -> bytes:
    """All scored neurons as a CSV file; tokens are joined by spaces, the histogram is left out."""
    table = ranking(store, scores, None, *more).drop(columns="histogram")
    return export_bytes(table.assign(top_tokens=table["top_tokens"].map(" ".join)), "csv")
