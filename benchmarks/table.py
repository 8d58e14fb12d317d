"""All benchmarks as one table, for `python -m core bench`."""

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from benchmarks.timing import Figure

GROUPS = ("queries", "generation", "build", "training", "startup")


def run(
    groups: list[str],
    repeats: int,
    *,
    quick: bool,
    against_sae_lens: bool,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> pd.DataFrame:
    """One row a figure: work, value, unit, bar, holds, note.

    Args:
        quick: tiny sizes, to see that everything runs; its figures mean nothing and are held against no bar.
        against_sae_lens: compare with sae_lens's own classes, too; training is always so compared.
    """
    rows = []
    for number, group in enumerate(groups):
        progress(group, number / len(groups))
        figures = _run(group, repeats, quick=quick, against_sae_lens=against_sae_lens)
        rows += [replace(figure, bar=None).row() if quick else figure.row() for figure in figures]
    progress("done", 1.0)
    return pd.DataFrame(rows)


def _run(group: str, repeats: int, *, quick: bool, against_sae_lens: bool) -> list[Figure]:
    # each brings libraries of its own: imported when it runs
    from benchmarks import building, generation, queries, sae_training, startup

    match group:
        case "queries":
            return queries.run(repeats, quick=quick)
        case "generation":
            return generation.run(repeats, quick=quick, against_sae_lens=against_sae_lens)
        case "build":
            return building.run(repeats, quick=quick, against_sae_lens=against_sae_lens)
        case "training":
            return sae_training.run(repeats, quick=quick)
        case "startup":
            return startup.run(repeats, quick=quick)
    raise ValueError(group)
