"""Coverage against loops over the raw activations of a tiny store."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.evaluation.coverage import (
    N_SAMPLES,
    WHOLE,
    coverage,
    dead_neurons,
    histogram,
    run,
    sample_sizes,
    summarise,
)
from core.evaluation.experiments import ExperimentOptions
from core.scoring.scorer import Scorer
from core.store.reader import Store
from tests.fixtures.stores import Dense, random_dense

SIZES = (8, 64)


@pytest.fixture(scope="module")
def dense() -> Dense:
    return random_dense(3, n_prompts=90, d_sae=16)


@pytest.fixture(scope="module")
def store(dense: Dense, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with dense.write(tmp_path_factory.mktemp("coverage")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("n_prompts", "sizes"),
    [(8_288, [64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 8_288]), (128, [64, 128]), (65, [64, 65]), (64, [64])],
)
def test_sample_sizes_are_powers_of_two_and_all(n_prompts: int, sizes: list[int]) -> None:
    assert sample_sizes(n_prompts) == sizes


def test_sample_sizes_of_a_small_set_are_all_of_it() -> None:
    assert sample_sizes(40) == [40]


def test_coverage_counts_as_loops_over_the_raw_activations_do(dense: Dense, store: Store) -> None:
    samples = coverage(store.summary_matrix(), SIZES, seed=5)
    fires = (dense.a > 0).any(axis=1)
    rng = np.random.default_rng(5)
    expected = []
    for size in SIZES:
        for sample in range(1, N_SAMPLES + 1):
            drawn = set(rng.integers(90, size=size).tolist())  # with replacement; a prompt drawn twice counts once
            active_in = [sum(bool(fires[p, i]) for p in drawn) for i in range(16)]
            at_least_1, above_20 = sum(n >= 1 for n in active_in), sum(n > 20 for n in active_in)
            expected.append((size, sample, len(drawn), at_least_1 / 16, above_20 / 16))
    assert [tuple(row) for row in samples.iloc[:-1].to_numpy().tolist()] == expected
    assert len({row[4] for row in expected}) > 3  # the numbers do tell samples apart


def test_last_row_is_the_whole_set(dense: Dense, store: Store) -> None:
    active_in = (dense.a > 0).any(axis=1).sum(axis=0)
    whole = coverage(store.summary_matrix(), SIZES).iloc[-1]
    assert (whole["size"], whole["sample"], whole["prompts"]) == (90, WHOLE, 90)
    assert whole["share_1"] == (active_in >= 1).mean() == 15 / 16  # neuron 0 never fires
    assert whole["share_20"] == (active_in > 20).mean()


def test_more_than_20_prompts_leaves_out_20(tmp_path: Path) -> None:
    a = np.zeros((30, 1, 2))
    a[:20, 0, 0] = a[:21, 0, 1] = 1.0
    dense = Dense(a, np.ones(30, dtype=int), random_dense(0, n_prompts=30).embeddings)
    with dense.write(tmp_path) as store:
        assert coverage(store.summary_matrix(), ()).iloc[-1]["share_20"] == 0.5


def test_summary_by_hand() -> None:
    samples = pd.DataFrame(
        {
            "size": [8, 8, 16, 16, 16],
            "sample": [1, 2, 1, 2, WHOLE],
            "prompts": [7, 8, 11, 12, 16],
            "share_1": [0.2, 0.4, 0.5, 0.5, 0.75],
            "share_20": [0.0, 0.1, 0.2, 0.4, 0.5],
        }
    )
    summary = summarise(samples)
    assert summary[["size", "samples", "prompts"]].to_numpy().tolist() == [[8, 2, 7.5], [16, 2, 11.5], [16, 0, 16]]
    np.testing.assert_allclose(summary["share_1"], [0.3, 0.5, 0.75])
    np.testing.assert_allclose(summary[["share_20_low", "share_20_high"]], [[0, 0.1], [0.2, 0.4], [0.5, 0.5]])


def test_histogram_counts_as_the_raw_activations_do(dense: Dense, store: Store) -> None:
    table = histogram(store.neurons())
    counts = {"tokens": (dense.a > 0).sum(axis=(0, 1)), "prompts": (dense.a > 0).any(axis=1).sum(axis=0)}
    for row in table.itertuples():
        assert row.neurons == ((counts[row.measure] >= row.low) & (counts[row.measure] <= row.high)).sum()
    assert table.groupby("measure")["neurons"].sum().to_dict() == {"tokens": 16, "prompts": 16}
    assert table[table["low"] == 0]["high"].tolist() == [0, 0]  # dead neurons have a bin of their own


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=30))
def test_histogram_has_every_neuron_in_one_bin(counts: list[int]) -> None:
    table = histogram(pd.DataFrame({"tokens": counts, "prompts": counts}))
    for _, bins in table.groupby("measure"):
        assert bins["neurons"].sum() == len(counts)
        assert (bins["low"].to_numpy()[1:] == bins["high"].to_numpy()[:-1] + 1).all()
        assert bins["low"].iloc[-1] <= max(counts) <= bins["high"].iloc[-1]


def test_dead_neurons_fire_on_no_prompt(dense: Dense, store: Store) -> None:
    dead = dead_neurons(store.neurons())
    assert dead["neuron"].tolist() == np.flatnonzero(~(dense.a > 0).any(axis=(0, 1))).tolist() == [0]
    assert list(dead["promoted"][0]) == ["up 0"]


def test_run_needs_no_embedding_and_reports_progress(store: Store) -> None:
    shares: list[float] = []
    scorer = Scorer(store, embedding_model=None)  # type: ignore[arg-type]
    tables = run(scorer, ExperimentOptions(seed=1), lambda _, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    pd.testing.assert_frame_equal(tables["coverage"], coverage(store.summary_matrix(), [64, 90], seed=1))
    assert [*tables] == ["coverage", "coverage-summary", "coverage-tokens", "coverage-dead"]
