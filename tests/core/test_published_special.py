"""The FAST paper's tables of special tokens and of alphas, cell by cell against the paper's text."""

import pandas as pd
import pytest

from core.results.published import published

D_MODEL = {
    "Llama-3.1-8B-Instruct": 4096,
    "Llama-3.2-3B-Instruct": 3072,
    "Llama-3.2-1B-Instruct": 2048,
    "Qwen2.5-7B-Instruct": 3584,
    "Qwen2.5-3B-Instruct": 2048,
    "Qwen2.5-1.5B-Instruct": 1536,
    "Qwen2.5-0.5B-Instruct": 896,
}
ONE_LIST = ["model", "expansion", "method", "token_id"]  # a cell of the paper: five neurons


@pytest.mark.parametrize(
    ("model", "expansion", "method", "token_id", "rank", "neuron", "mean_max"),
    [
        ("Llama-3.1-8B-Instruct", 8, "btp", 882, 1, 4453, 0.8120),
        ("Llama-3.1-8B-Instruct", 8, "btf", 128006, 1, 17784, 7.480),
        ("Llama-3.1-8B-Instruct", 8, "fast", 128009, 5, 118, 0.412),
        ("Llama-3.2-3B-Instruct", 16, "btp", 128006, 1, 38076, 28.41),
        ("Llama-3.2-3B-Instruct", 16, "fast", 128007, 2, 655, 0.753),
        ("Llama-3.2-1B-Instruct", 16, "btf", 78191, 3, 2092, 0.526),
        ("Llama-3.2-1B-Instruct", 8, "fast", 128006, 1, 12361, 8.486),
        ("Qwen2.5-7B-Instruct", 8, "fast", 872, 1, 13794, 37.19),
        ("Qwen2.5-7B-Instruct", 8, "fast", 151644, 1, 13794, 39.87),
        ("Qwen2.5-7B-Instruct", 8, "fast", 77091, 5, 13794, 3.731),
        ("Qwen2.5-3B-Instruct", 8, "fast", 151644, 1, 8775, 248.36),
        ("Qwen2.5-1.5B-Instruct", 16, "fast", 872, 1, 21852, 580.0),
        ("Qwen2.5-0.5B-Instruct", 8, "btp", 77091, 2, 1767, 0.843),
        ("Qwen2.5-0.5B-Instruct", 16, "fast", 151645, 5, 5314, 0.377),
    ],
)
def test_special_tokens_by_hand(
    model: str, expansion: int, method: str, token_id: int, rank: int, neuron: int, mean_max: float
) -> None:
    table = published("fast_special_tokens").set_index([*ONE_LIST, "rank"])
    cell = table.loc[(model, expansion, method, token_id, rank)]
    assert (cell["neuron"], cell["mean_max"]) == (neuron, mean_max)


def test_special_tokens_are_whole() -> None:
    table = published("fast_special_tokens")
    lists = table.groupby(ONE_LIST)
    assert (lists["rank"].apply(list).map(lambda ranks: ranks == [1, 2, 3, 4, 5])).all()
    assert lists["mean_max"].apply(lambda values: values.is_monotonic_decreasing).all()
    # five Llama tokens; 8B at x8 alone, the others at x8 and x16; three methods. Qwen has four tokens
    assert len(lists) == 5 * 3 * (1 + 2 + 2) + 4 * 3 * (1 + 2 + 2 + 2)


def test_neuron_numbers_fit_the_widths_that_name_the_models() -> None:
    table = published("fast_special_tokens")
    assert list(table["model"].drop_duplicates()) == list(D_MODEL)
    assert (table["neuron"] < table["model"].map(D_MODEL) * table["expansion"]).all()


@pytest.mark.parametrize(("question", "low", "high"), [(2, 25, 75), (3, 50, 100), (4, 25, 100)])
def test_useful_alphas_by_hand(question: int, low: float, high: float) -> None:
    table = published("fast_alpha").set_index(["model", "question"])
    row = table.loc[("Qwen2.5-7B-Instruct", question)]
    assert (row["neuron"], row["alpha_low"], row["alpha_high"]) == (13794, low, high)
    lost = table.loc[("Llama-3.1-8B-Instruct", question)]
    assert pd.isna(lost["alpha_low"])
    assert pd.isna(lost["alpha_high"])


def test_steered_neurons_are_the_strongest_on_their_token() -> None:
    tokens = published("fast_special_tokens").query("method == 'fast' and expansion == 8 and rank == 1")
    strongest = tokens.set_index(["model", "token"])["neuron"]
    for row in published("fast_alpha").itertuples():
        assert strongest[row.model, row.token] == row.neuron
