"""Output scores against explicit forward passes: no cache, one neuron at a time, through transformers alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.catalog import Setup
from core.errors import AutoencoderError, NeuronRangeError, UsageError
from core.evaluation import output_score
from core.evaluation.experiments import ExperimentOptions
from core.evaluation.output_score import (
    N_OPENINGS,
    PROMOTED_TOKENS,
    distinctive_words,
    nearest_neurons,
    neutral_prompts,
    output_scores,
    probability_gains,
    promoted_tokens,
    token_ids,
    topic_gains,
)
from core.evaluation.running import run_and_save
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder, load_sparse_autoencoder
from core.results.app_store import AppStore
from core.steering.workbench import Workbench
from core.text.prompts import Topic, continuations
from tests.fixtures.autoencoders import HOOK_LAYER, N_DEAD, residual_stream, write_autoencoder

SOME = (0, 3, 41, 100, 187)
STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)


@torch.no_grad()
def explicit_gains(
    model: LanguageModel, path: str, directions: torch.Tensor, targets: torch.Tensor, *, scaled: bool = False
) -> np.ndarray:
    """Mean gain of each direction over the openings.

    Args:
        path: of the native module to whose output, at the last position, the direction is added.
        scaled: times the standard deviation of the activation there, as a layer-norm SAE scales its decoder.
    """
    last: list[torch.Tensor] = []

    def adding(direction: torch.Tensor) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            out = (output[0] if isinstance(output, tuple) else output).clone()
            last.append(out[0, -1].clone())
            out[:, -1] += direction * (out[0, -1].std() if scaled else 1.0)
            return (out, *output[1:]) if isinstance(output, tuple) else out

        return hook

    def probability(ids: list[int], direction: torch.Tensor) -> torch.Tensor:
        handle = model.model.get_submodule(path).register_forward_hook(adding(direction))
        try:
            return model.model(torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1)
        finally:
            handle.remove()

    gains = []
    for direction, tokens in zip(directions, targets, strict=True):
        here = []
        for prompt in neutral_prompts(model):
            before, after = (probability(prompt.ids, d) for d in (torch.zeros_like(direction), direction))
            here.append(float(after[tokens].sum() - before[tokens].sum()))
        gains.append(np.mean(here))
    assert last
    return np.array(gains)


def fast_and_explicit(
    model: LanguageModel, sae: SparseAutoencoder, path: str, *, scaled: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    neurons, strengths = torch.tensor(SOME), torch.tensor(STRENGTHS)
    targets = promoted_tokens(model, sae.W_dec[neurons])
    fast = probability_gains(model, sae, neurons, strengths, targets)
    return fast, explicit_gains(model, path, strengths[:, None] * sae.W_dec[neurons], targets, scaled=scaled)


@pytest.mark.parametrize(
    ("hook_name", "path"),
    [
        (f"blocks.{HOOK_LAYER}.hook_resid_post", f"transformer.h.{HOOK_LAYER}"),
        (f"blocks.{HOOK_LAYER}.hook_resid_pre", f"transformer.h.{HOOK_LAYER - 1}"),
        (f"blocks.{HOOK_LAYER}.hook_mlp_out", f"transformer.h.{HOOK_LAYER}.mlp"),
        ("blocks.0.hook_resid_pre", "transformer.drop"),
        ("blocks.2.hook_resid_post", "transformer.h.2"),
    ],
)
def test_gains_equal_full_forward_passes_wherever_the_hook_is(
    hook_name: str, path: str, gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    fast, explicit = fast_and_explicit(gpt2, replace(saes["gpt2-topk"], hook_name=hook_name), path)
    np.testing.assert_allclose(fast, explicit, atol=1e-6)
    assert np.abs(explicit).max() > 1e-3


def test_gains_of_a_chat_model(qwen2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    fast, explicit = fast_and_explicit(qwen2, saes["qwen2-jumprelu"], f"model.layers.{HOOK_LAYER}")
    np.testing.assert_allclose(fast, explicit, atol=1e-6)
    assert np.abs(explicit).max() > 1e-3


def test_decoder_rows_are_scaled_back_where_the_sae_normalises_its_input(
    gpt2: LanguageModel, gpt2_folder: Path, tmp_path: Path
) -> None:
    folder = write_autoencoder(
        tmp_path / "sae", "topk", residual_stream(gpt2_folder), normalize_activations="layer_norm"
    )
    sae = load_sparse_autoencoder(Setup(name="x", model="none", sae=str(folder)))
    fast, explicit = fast_and_explicit(gpt2, sae, f"transformer.h.{HOOK_LAYER}", scaled=True)
    np.testing.assert_allclose(fast, explicit, atol=1e-6)
    assert np.abs(explicit).max() > 1e-3


def test_gains_do_not_depend_on_the_batch(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    neurons = torch.arange(20)
    targets, shares = torch.arange(40).reshape(20, 2), []
    at_once = probability_gains(gpt2, saes["gpt2-topk"], neurons, torch.ones(20), targets)
    monkeypatch.setattr(output_score, "_BATCH_LOGITS", 3 * 512)
    by_three = probability_gains(gpt2, saes["gpt2-topk"], neurons, torch.ones(20), targets, shares.append)
    np.testing.assert_allclose(by_three, at_once, atol=1e-7)
    assert shares == sorted(shares)
    assert (len(shares), shares[-1]) == (7 * N_OPENINGS, 1.0)


@pytest.mark.parametrize(("name", "before"), [("gpt2", "<|endoftext|>"), ("qwen2", "<|im_start|>assistant\n")])
def test_neutral_prompts_open_a_sentence_or_an_answer(name: str, before: str, request: pytest.FixtureRequest) -> None:
    model: LanguageModel = request.getfixturevalue(name)
    prompts = neutral_prompts(model)
    assert len(prompts) == N_OPENINGS
    for prompt, text in zip(prompts, continuations(), strict=False):
        assert model.tokenizer.decode(prompt.ids).endswith(before + text)
        ends = [i for i, special in enumerate(prompt.special) if special]
        assert model.tokenizer.decode(prompt.ids[ends[-1] + 1 :]) == text


def test_promoted_tokens_are_those_of_the_logit_lens(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    W_dec = saes["gpt2-topk"].W_dec[:7]
    logits = W_dec.numpy() @ gpt2.model.lm_head.weight.numpy().T
    assert promoted_tokens(gpt2, W_dec).tolist() == np.argsort(-logits, axis=1)[:, :PROMOTED_TOKENS].tolist()


def test_output_scores_rank_every_neuron_that_fires(bench: Workbench) -> None:
    neurons = bench.store.neurons()
    table = output_scores(bench.model, bench.sae, neurons["mean"].to_numpy())
    assert table["neuron"].tolist() == neurons[neurons["prompts"] > 0]["neuron"].tolist()
    assert bench.sae.d_sae - len(table) >= N_DEAD
    ordered = table.sort_values("rank")
    assert ordered["rank"].tolist() == list(range(1, len(table) + 1))
    assert ordered["output_score"].is_monotonic_decreasing
    row = table.iloc[5]
    direction = float(neurons["mean"][row["neuron"]]) * bench.sae.W_dec[[row["neuron"]]]
    targets = promoted_tokens(bench.model, direction)
    (expected,) = explicit_gains(bench.model, f"transformer.h.{HOOK_LAYER}", direction, targets)
    assert row["output_score"] == pytest.approx(expected, abs=1e-6)


def test_experiment_keeps_scores_and_the_best_neurons(bench: Workbench, tmp_path: Path) -> None:
    stages: list[tuple[str, float]] = []
    results = AppStore(tmp_path)
    tables = run_and_save(
        "output", bench, ExperimentOptions(), results, "tiny", lambda name, share: stages.append((name, share))
    )
    kept = results.result("tiny", "output")
    assert kept is not None
    pd.testing.assert_frame_equal(kept, tables["output"])
    assert tables["output-best"]["rank"].tolist() == list(range(1, 21))
    best = tables["output"].set_index("rank")["neuron"][1]
    assert tables["output-best"]["neuron"][0] == best
    assert list(tables["output-best"]["promoted"][0]) == list(bench.store.neurons([best])["promoted"][0])
    assert stages[-1] == ("output scores", 1.0)


def test_decoder_inside_attention_has_no_output_score(gpt2: LanguageModel, bench: Workbench) -> None:
    sae = replace(bench.sae, hook_name="blocks.1.attn.hook_z")
    with pytest.raises(AutoencoderError, match=r"but blocks\.1\.attn\.hook_z lies inside attention; use a setup"):
        output_scores(gpt2, sae, np.ones(sae.d_sae, dtype=np.float32))


# ---- neighbours ----


@given(st.integers(2, 9), st.integers(0, 10_000))
def test_nearest_neurons_equal_brute_force(d_sae: int, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(d_sae, 3)).astype(np.float32)
    neurons, cosines = nearest_neurons(torch.from_numpy(rows), n=4)
    unit = rows.astype(float) / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    for i in range(d_sae):
        others = sorted(((float(unit[i] @ unit[j]), j) for j in range(d_sae) if j != i), reverse=True)[:4]
        assert len(neurons[i]) == len(others)
        np.testing.assert_allclose(cosines[i], [cosine for cosine, _ in others], atol=1e-5)
        assert i not in neurons[i]


# ---- a topic's words ----


def test_distinctive_words_by_hand() -> None:
    topic = [" Heart", " heart", " valve", " the", " the", "s", " 12"]
    reference = [" the"] * 50 + [" heart"] + [" valves"] * 9
    # of five words: heart 2, the 2, valve 1; 'the' is as frequent elsewhere, 's' and '12' are no words
    assert distinctive_words(topic, reference) == ["heart", "valve"]
    assert distinctive_words(topic, reference, n=1) == ["heart"]
    assert distinctive_words([], reference) == []


def test_token_ids_spell_a_word_in_every_way_that_is_one_token(gpt2: LanguageModel) -> None:
    whole = {token.strip() for token in gpt2.token_strings(range(512)) if token.startswith(" ") and len(token) > 4}
    word = sorted(w for w in whole if w.isalpha() and w.islower())[0]
    ids = token_ids(gpt2, [word, "xylophonically"])
    assert {text.strip().lower() for text in gpt2.token_strings(ids)} == {word}
    assert f" {word}" in gpt2.token_strings(ids)
    assert len(ids) == len(set(ids))


def test_topic_gains_equal_full_forward_passes(bench: Workbench) -> None:
    topic = Topic("t", "T", ("Write about people and their work.", "The people who work here."))
    neurons = [7, 3, bench.sae.d_sae - 1]  # the last never fires
    found = topic_gains(bench, topic, neurons)
    assert found.table["neuron"].tolist() == [3, 7]
    assert found.words
    means = torch.tensor(bench.store.neurons([3, 7])["mean"].to_numpy())
    directions = means[:, None] * bench.sae.W_dec[[3, 7]]
    targets = torch.tensor(token_ids(bench.model, found.words)).expand(2, -1)
    expected = explicit_gains(bench.model, f"transformer.h.{HOOK_LAYER}", directions, targets)
    np.testing.assert_allclose(found.table["topic_gain"], expected, atol=1e-6)
    assert found.table["topic_rank"].tolist() == (2 - (expected == expected.max())).tolist()


def test_topic_without_words_says_so(bench: Workbench) -> None:
    with pytest.raises(UsageError, match="no token of this model spells a word of the topic"):
        topic_gains(bench, Topic("t", "T", ("12 + 7", "!?")), [3])


def test_neuron_out_of_range_is_refused(bench: Workbench) -> None:
    with pytest.raises(NeuronRangeError, match="neuron 192 is out of range"):
        topic_gains(bench, Topic("t", "T", ("the people at work",)), [192])
