"""Figures worked by hand, and perplexity and distances against a loop and numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.models.codes import SparseCode
from core.models.embeddings import EmbeddingModel, load_embedding_model
from core.models.language_model import LanguageModel
from core.models.tokens import TokenisedPrompt
from core.steering.code_edits import CodeOutcome
from core.steering.metrics import (
    concept_score,
    contamination,
    contamination_share,
    distinct_n,
    fluency_score,
    harmonic_mean,
    language_switch,
    neurons_changed,
    perplexity,
    reconstruction_delta,
    repetition,
    text_distances,
    topic_percentile,
)

SCORE = torch.tensor([1.0, 0.5, 0.0, 0.25])


def code(rows: list[list[tuple[int, float]]]) -> SparseCode:
    """Post-activations from (neuron, value) pairs."""
    return SparseCode(
        torch.tensor([[neuron for neuron, _ in row] for row in rows]),
        torch.tensor([[value for _, value in row] for row in rows]),
    )


def test_contamination_by_hand() -> None:
    # 4 x (1 - 1) + 2 x (1 - 0.5); 8 x (1 - 0.25); nothing; 2 x (1 - 0) + |-2| x (1 - 0.5)
    a = code([[(0, 4.0), (1, 2.0)], [(3, 8.0), (0, 0.0)], [(2, 0.0), (2, 0.0)], [(2, 2.0), (1, -2.0)]])
    assert contamination(a, SCORE).tolist() == [1.0, 6.0, 0.0, 3.0]
    assert contamination_share(a, SCORE).tolist() == pytest.approx([1 / 6, 0.75, 0.0, 0.75])


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=4),
    score=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_contamination_share_lies_between_0_and_1(values: list[float], score: list[float]) -> None:
    share = contamination_share(code([list(enumerate(values))]), torch.tensor(score))
    assert 0 <= float(share) <= 1 + 1e-6


def outcome(x: list[float], edited: list[float], reconstructed: list[float]) -> CodeOutcome:
    nothing = code([[(0, 0.0)]])
    return CodeOutcome(torch.tensor([x]), torch.tensor([edited]), torch.tensor([reconstructed]), nothing, nothing)


def test_reconstruction_delta_by_hand() -> None:
    # mse to x: edited (1 + 9) / 2, reconstruction (4 + 0) / 2
    assert reconstruction_delta(outcome([1.0, 2.0], [2.0, 5.0], [3.0, 2.0])).item() == 3.0
    assert reconstruction_delta(outcome([1.0, 2.0], [1.0, 2.0], [3.0, 2.0])).item() == -2.0


def test_neurons_changed_by_hand() -> None:
    before = code([[(0, 1.0), (1, 2.0)], [(3, 5.0), (2, 0.0)]])
    after = code([[(1, 2.0), (2, 4.0)], [(3, 5.0), (3, 0.0)]])  # 0 dropped, 2 admitted; the same
    x = torch.zeros(2, 1)
    assert neurons_changed(CodeOutcome(x, x, x, before, after), d_sae=4).tolist() == [2, 0]


# ---- text ----


def test_perplexity_equals_a_loop_over_tokens(gpt2: LanguageModel, qwen2: LanguageModel) -> None:
    texts = [("My heart", " is broken."), ("Rain", " falls on the roof of the old house."), ("The", " end")]
    for model in (gpt2, qwen2):
        prompts = [model.tokenise(prompt, generate=True) for prompt, _ in texts]
        continuations = [model.tokenizer(text, add_special_tokens=False).input_ids for _, text in texts]
        expected = []
        for prompt, ids in zip(prompts, continuations, strict=True):
            losses = []
            for i, token in enumerate(ids):
                with torch.no_grad():
                    logits = model.model(torch.tensor([[*prompt.ids, *ids[:i]]])).logits[0, -1]
                losses.append(-float(logits.log_softmax(-1)[token]))
            expected.append(math.exp(sum(losses) / len(losses)))
        assert perplexity(model, prompts, continuations) == pytest.approx(expected, rel=1e-3)


def test_perplexity_of_no_token_is_not_defined(gpt2: LanguageModel) -> None:
    prompts = [TokenisedPrompt([5, 6], [True, False])] * 2
    empty, some = perplexity(gpt2, prompts, [[], [7]])
    assert math.isnan(empty)
    assert some > 1


def test_perplexity_does_not_depend_on_the_batches(gpt2: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, ids = [gpt2.tokenise("Rain")] * 3, [[44, 8], [17], [300]]
    together = perplexity(gpt2, prompts, ids)
    monkeypatch.setattr("core.steering.metrics._LOGITS_AT_ONCE", 1)  # a text at a time
    assert perplexity(gpt2, prompts, ids) == pytest.approx(together)


@pytest.fixture(scope="module")
def embedding_model() -> EmbeddingModel:
    return load_embedding_model()


def test_text_distances_equal_numpy(embedding_model: EmbeddingModel) -> None:
    texts = ["The surgeon mends a heart.", "A goal in the last minute.", "Heart surgery"]
    topic = embedding_model.embed(["Heart surgery", "A broken leg"])
    vectors = embedding_model.embed(texts).astype(np.float64)
    expected = [min(np.linalg.norm(v - p) for p in topic.astype(np.float64)) for v in vectors]
    distances = text_distances(embedding_model, texts, topic)
    np.testing.assert_allclose(distances, expected, atol=1e-6)
    assert distances[2] == pytest.approx(0, abs=1e-6)
    assert distances[0] < distances[1]


def test_topic_percentile_by_hand() -> None:
    reference = np.array([0.4, 0.1, 0.3, 0.2], np.float32)
    distance = np.array([0.05, 0.1, 0.25, 0.5], np.float32)
    assert topic_percentile(distance, reference).tolist() == [0.0, 0.0, 50.0, 100.0]


@pytest.mark.parametrize(
    ("tokens", "n", "expected"),
    [([1, 2, 1, 2], 2, 2 / 3), ([1, 2, 3], 2, 1.0), ([1, 1, 1, 1, 1], 3, 1 / 3), ([7, 8], 2, 1.0), ([4, 4], 1, 0.5)],
)
def test_distinct_n_by_hand(tokens: list[int], n: int, expected: float) -> None:
    assert distinct_n(tokens, n) == pytest.approx(expected)


def test_repetition_by_hand() -> None:
    assert repetition([1, 2, 1, 3, 3]) == 2 / 5
    assert repetition([1, 2, 3]) == 0
    # the 17th token looks back 16 tokens, the 18th no further
    assert repetition([0, *range(1, 16), 0]) == 1 / 17
    assert repetition([0, *range(1, 17), 0]) == 0


@pytest.mark.parametrize(
    ("text", "prompt", "expected"),
    [
        ("It rains.", "Will it rain?", 0.0),
        ("Да, ok", "Will it rain?", 2 / 4),
        ("明天 yes", "Will it rain?", 2 / 5),
        ("カタカナ", "明日は雨?", 0.0),  # Japanese mixes its scripts
        ("\uff39\uff25\uff33, café", "Will it rain?", 0.0),  # full-width and accented Latin
        ("한국", "2 + 2 = four", 1.0),
    ],
)
def test_language_switch_by_hand(text: str, prompt: str, expected: float) -> None:
    assert language_switch(text, prompt) == pytest.approx(expected)


@pytest.mark.parametrize(("text", "prompt"), [("12 + 3", "Add"), ("five", "2 + 3 ="), ("", "Add")])
def test_language_switch_without_letters_is_not_defined(text: str, prompt: str) -> None:
    assert math.isnan(language_switch(text, prompt))


def test_figures_of_too_short_a_text_are_not_defined() -> None:
    assert math.isnan(distinct_n([1], 2))
    assert math.isnan(distinct_n([], 1))
    assert math.isnan(repetition([]))


def test_concept_score_by_hand() -> None:
    assert [concept_score(percentile) for percentile in (0, 25, 50, 100)] == [2.0, 1.5, 1.0, 0.0]


@pytest.mark.parametrize(
    ("perplexity", "distinct_2", "expected"),
    [
        (20.0, 0.9, 2.0),  # as usual
        (80.0, 0.9, 0.5),  # four times as surprising
        (5.0, 0.3, 2 / 3),  # likely, because it repeats itself
        (40.0, 0.3, 2 / 3),  # the worse of the two
        (10.0, 1.0, 2.0),  # better than usual counts as usual
    ],
)
def test_fluency_score_by_hand(perplexity: float, distinct_2: float, expected: float) -> None:
    assert fluency_score(perplexity, distinct_2, 20.0, 0.9) == pytest.approx(expected)


def test_fluency_of_too_short_a_text_is_not_defined() -> None:
    assert math.isnan(fluency_score(20.0, math.nan, 20.0, 0.9))


def test_harmonic_mean_by_hand() -> None:
    assert harmonic_mean(1.0, 0.5) == pytest.approx(2 / 3)
    assert harmonic_mean(2.0, 1.0, 1.0) == pytest.approx(1.2)
    assert harmonic_mean(2.0, 0.0) == 0
    assert math.isnan(harmonic_mean(0.0, math.nan))
