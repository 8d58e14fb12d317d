"""Streamed rows equal a brute-force loop over prompts, whatever the batches."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens import SAE

from core.build.activations import length_sorted_batches, token_activations
from core.errors import AutoencoderError
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder
from core.store.batch import ActivationBatch
from tests.fixtures.autoencoders import D_SAE, HOOK_LAYER

PROMPTS = (
    "The surgeon mends a heart.",
    "Rain.",
    "Which planets in the solar system have rings, and which of them can be seen from the Earth?",
    "user",
    "A goal in the last minute won the cup for the visitors.",
)
Rows = dict[tuple[int, int], np.ndarray]  # (prompt, position) -> dense post-activations


def rows_of(batches: Sequence[ActivationBatch]) -> Rows:
    rows: Rows = {}
    for batch in batches:
        for prompt, n in zip(batch.prompts, batch.n_tokens, strict=True):
            rows.update({(int(prompt), t): np.zeros(D_SAE, np.float32) for t in range(n)})
        for p, t, i, a in zip(batch.prompt, batch.position, batch.neuron, batch.activation, strict=True):
            assert rows[p, t][i] == 0, "one row an active (token, neuron)"
            rows[p, t][i] = a
    return rows


@torch.no_grad()
def brute_force(model: LanguageModel, folder: Path) -> Rows:
    """One prompt at a time, through transformers and sae_lens alone."""
    sae, rows = SAE.load_from_disk(folder), {}
    for p, text in enumerate(PROMPTS):
        own = model.tokenizer(text, add_special_tokens=False).input_ids
        if model.chat:
            turn = [{"role": "user", "content": text}]
            ids = model.tokenizer.apply_chat_template(turn, tokenize=True, return_dict=False)
            first = len(ids) - 2 - len(own)  # the turn ends with <|im_end|> and a line break
        else:
            ids, first = [model.tokenizer.eos_token_id, *own], 1
        assert ids[first : first + len(own)] == own
        x = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[HOOK_LAYER + 1]
        a = sae.encode(x)[0, first : first + len(own)].numpy()
        rows.update({(p, t): a[t] for t in range(len(own))})
    return rows


def assert_same_rows(ours: Rows, expected: Rows) -> None:
    assert ours.keys() == expected.keys()
    for key, row in expected.items():
        np.testing.assert_allclose(ours[key], row, atol=2e-5, rtol=1e-4, err_msg=str(key))


@pytest.mark.parametrize(
    "name",
    ["gpt2-standard", "gpt2-jumprelu", "gpt2-topk", "gpt2-abstopk", "gpt2-gated", "qwen2-topk", "qwen2-jumprelu"],
)
def test_rows_equal_a_loop_over_prompts(
    name: str,
    request: pytest.FixtureRequest,
    sae_folders: Mapping[str, Path],
    saes: Mapping[str, SparseAutoencoder],
) -> None:
    model = request.getfixturevalue(name.split("-")[0])
    expected = brute_force(model, sae_folders[name])
    assert sum(int((row != 0).sum()) for row in expected.values()) > 100
    for batch_tokens in (1, 60, 10_000):
        batches = list(token_activations(model, saes[name], PROMPTS, batch_tokens=batch_tokens))
        assert_same_rows(rows_of(batches), expected)


def test_tokens_are_the_prompts_own(
    gpt2: LanguageModel, qwen2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    for model, name in ((gpt2, "gpt2-topk"), (qwen2, "qwen2-topk")):
        (batch,) = token_activations(model, saes[name], PROMPTS)
        assert sorted(batch.prompts) == list(range(len(PROMPTS)))
        assert list(batch.n_tokens) == [len(strings) for strings in batch.tokens]
        assert ["".join(strings) for strings in batch.tokens] == [PROMPTS[i] for i in batch.prompts]


def test_rows_are_ordered_and_typed(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    (batch,) = token_activations(gpt2, saes["gpt2-topk"], PROMPTS, prompt_ids=[50, 40, 30, 20, 10])
    assert sorted(batch.prompts) == [10, 20, 30, 40, 50]
    order = {prompt: place for place, prompt in enumerate(batch.prompts)}
    keys = [(order[p], t) for p, t in zip(batch.prompt, batch.position, strict=True)]
    assert keys == sorted(keys)
    for column in (batch.prompts, batch.n_tokens, batch.prompt, batch.position, batch.neuron):
        assert column.dtype == np.int32
    assert batch.activation.dtype == np.float32


def test_long_prompts_are_cut(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    (batch,) = token_activations(gpt2, saes["gpt2-topk"], PROMPTS, max_length=4)
    assert max(batch.n_tokens) == 3  # the token before the text counts too
    assert max(batch.position) == 2


def test_prompts_cut_to_their_template_have_no_row(qwen2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    (batch,) = token_activations(qwen2, saes["qwen2-topk"], PROMPTS, max_length=3)
    assert list(batch.n_tokens) == [0] * len(PROMPTS)
    assert (len(batch.activation), batch.tokens) == (0, [[]] * len(PROMPTS))


def test_forward_pass_stops_at_the_hook_and_batches_come_one_by_one(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    reached: list[str] = []
    blocks = gpt2.model.transformer.h
    handles = [
        block.register_forward_pre_hook(lambda _module, _args, name=f"block {i}": reached.append(name))
        for i, block in enumerate(blocks)
    ]
    stream = token_activations(gpt2, saes["gpt2-topk"], PROMPTS, batch_tokens=1)
    assert reached == []
    next(stream)
    assert reached == ["block 0", "block 1"]
    assert len(list(stream)) == len(PROMPTS) - 1
    for handle in handles:
        handle.remove()
    assert reached == ["block 0", "block 1"] * len(PROMPTS)


def test_sae_of_another_width_is_refused(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    wide = replace(saes["gpt2-topk"], hook_name="blocks.1.mlp.hook_post")
    with pytest.raises(AutoencoderError, match=r"reads 32 dimensions at blocks.1.mlp.hook_post, but .* has 128 there"):
        list(token_activations(gpt2, wide, PROMPTS))


@given(lengths=st.lists(st.integers(1, 50), max_size=30), batch_tokens=st.integers(1, 200))
def test_batches_hold_every_prompt_once_within_the_budget(lengths: list[int], batch_tokens: int) -> None:
    batches = list(length_sorted_batches(lengths, batch_tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= batch_tokens
