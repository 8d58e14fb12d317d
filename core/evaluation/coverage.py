"""How many neurons do the reference prompts reach? (Topic Alignment paper, 3.1 and A.1; Fig. 3 and 8.)

A neuron that fires on too few of them cannot be called aligned or unaligned: it has no score, and swap drops it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Int

from core.evaluation.experiments import ExperimentOptions
from core.progress import Progress

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from core.scoring.scorer import Scorer  # imports torch

FIRST_SIZE = 64  # 2^6, the smallest of Fig. 3
N_SAMPLES = 5  # samples of each size
MANY_PROMPTS = 20  # Fig. 3b counts neurons active in more; a score needs this many
SHARES = ("share_1", "share_20")
WHOLE = 0  # sample number of the whole reference set


def sample_sizes(n_prompts: int, first: int = FIRST_SIZE) -> list[int]:
    """The powers of two from `first` that are below the number of reference prompts, and that number itself."""
    powers = range((first - 1).bit_length(), (n_prompts - 1).bit_length())
    return [*(2**power for power in powers), n_prompts]


def _shares(active: csr_array, prompts: Int[np.ndarray, "drawn"]) -> dict[str, float]:
    d_sae = active.shape[1]
    active_in = np.bincount(active[prompts].indices, minlength=d_sae)
    return {
        "prompts": len(prompts),
        "share_1": np.count_nonzero(active_in) / d_sae,
        "share_20": np.count_nonzero(active_in > MANY_PROMPTS) / d_sae,
    }


def coverage(
    active: csr_array, sizes: Sequence[int], seed: int = 0, progress: Progress = lambda stage, share: None
) -> pd.DataFrame:
    """Share of neurons that fire in sets of reference prompts of each size (Fig. 3).

    Args:
        active: [prompt d_sae] with an entry where a neuron is active, from `Store.summary_matrix`.

    Returns:
        Columns size; sample (1 to N_SAMPLES, drawn with replacement as in the paper); prompts (distinct ones in the
        sample); share_1 and share_20 (shares of all neurons active in at least 1 and in more than 20 of them). The last
        row, sample WHOLE, is the whole set.
    """
    rng = np.random.default_rng(seed)
    n_prompts = active.shape[0]
    rows = []
    for number, size in enumerate(sizes):
        for sample in range(1, N_SAMPLES + 1):
            # Not scipy.stats.bootstrap: these are the paper's samples, of sizes of their own, each in the table.
            drawn = np.unique(rng.integers(n_prompts, size=size))
            rows.append({"size": size, "sample": sample, **_shares(active, drawn)})
        progress("samples", (number + 1) / len(sizes))
    rows.append({"size": n_prompts, "sample": WHOLE, **_shares(active, np.arange(n_prompts))})
    return pd.DataFrame(rows)


def summarise(samples: pd.DataFrame) -> pd.DataFrame:
    """The table of `coverage` by size: mean over the samples, with the lowest and the highest (the bars of Fig. 3).

    Returns:
        Columns size, samples (0 for the whole set), prompts (distinct ones, mean); share_1, share_1_low, share_1_high;
        share_20 likewise.
    """
    rows = []
    for (whole, size), group in samples.groupby([samples["sample"] == WHOLE, "size"]):
        row = {"size": size, "samples": 0 if whole else len(group), "prompts": group["prompts"].mean()}
        for name in SHARES:
            row |= {name: group[name].mean(), f"{name}_low": group[name].min(), f"{name}_high": group[name].max()}
        rows.append(row)
    return pd.DataFrame(rows)


def _bin_edges(largest: int) -> list[int]:
    """Whole-number bin edges: 0, 1, then growing by the square root of 2, until one is above `largest`."""
    edges, half_octaves = [0, 1], 0
    while edges[-1] <= largest:
        half_octaves += 1
        edges.append(max(edges[-1] + 1, math.ceil(2 ** (half_octaves / 2))))
    return edges


def histogram(neurons: pd.DataFrame) -> pd.DataFrame:
    """How many neurons are active on how many tokens, and in how many prompts (Fig. 8).

    Args:
        neurons: from `Store.neurons`.

    Returns:
        Columns measure (tokens or prompts), low and high (both within the bin; 0 to 0 are the dead neurons), neurons
        (their number).
    """
    tables = []
    for measure in ("tokens", "prompts"):
        edges = _bin_edges(int(neurons[measure].max()))
        found, _ = np.histogram(neurons[measure], bins=edges)
        tables.append(
            pd.DataFrame(
                {"measure": measure, "low": edges[:-1], "high": [edge - 1 for edge in edges[1:]], "neurons": found}
            )
        )
    return pd.concat(tables, ignore_index=True)


def dead_neurons(neurons: pd.DataFrame) -> pd.DataFrame:
    """The neurons active in no reference prompt: neuron, and promoted (the tokens that its decoder row promotes)."""
    return neurons.loc[neurons["prompts"] == 0, ["neuron", "promoted"]].reset_index(drop=True)


def run(
    workbench: Scorer, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `coverage` (every sample), `-summary` (by size), `-tokens` (histogram), and `-dead`; needs no model."""
    progress("activations", 0.0)
    active, neurons = workbench.store.summary_matrix(), workbench.store.neurons()
    samples = coverage(active, sample_sizes(workbench.store.n_prompts), options.seed, progress)
    return {
        "coverage": samples,
        "coverage-summary": summarise(samples),
        "coverage-tokens": histogram(neurons),
        "coverage-dead": dead_neurons(neurons),
    }
