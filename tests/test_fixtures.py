"""The tiny checkpoints are what they claim: the libraries load them, and their neurons fire on some tokens."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import SAE
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.catalog import all_setups, missing_parts
from core.models.embeddings import load_embedding_model
from tests.fixtures.autoencoders import ARCHITECTURES, D_SAE, N_DEAD, K, residual_stream, write_autoencoder
from tests.fixtures.text import sample_rows

CALIBRATED = ("standard", "jumprelu", "gated")


@pytest.fixture(scope="module")
def streams(gpt2_folder: Path, qwen2_folder: Path) -> dict[str, torch.Tensor]:
    return {folder.name: residual_stream(folder) for folder in (gpt2_folder, qwen2_folder)}


@pytest.mark.parametrize("model", ["gpt2", "qwen2"])
def test_bridge_boots_the_folder_and_agrees_with_transformers(model: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{model}_folder")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The heart is a muscle.", return_tensors="pt").input_ids
    with torch.no_grad():
        bridged = TransformerBridge.boot_transformers(str(folder))(ids)
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
    torch.testing.assert_close(bridged, plain, atol=1e-4, rtol=1e-4)


def test_text_survives_the_tokenizers(gpt2_folder: Path, qwen2_folder: Path) -> None:
    text = "Heart surgery, naïve – 心"
    for folder in (gpt2_folder, qwen2_folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_chat_template_marks_turns_with_single_tokens(qwen2_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(qwen2_folder)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    for word in ("<|im_start|>", "<|im_end|>", "user", "assistant"):
        assert len(tokenizer(word).input_ids) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("model", ["gpt2", "qwen2"])
def test_neurons_fire_on_some_tokens(
    model: str, architecture: str, sae_folders: Mapping[str, Path], streams: dict[str, torch.Tensor]
) -> None:
    sae = SAE.load_from_disk(sae_folders[f"{model}-{architecture}"])
    assert sae.cfg.architecture() == architecture
    with torch.no_grad():
        active = sae.encode(streams[model]) != 0
    per_token = active.sum(-1).float().mean().item()
    assert 1 < per_token <= (0.1 * D_SAE if architecture in CALIBRATED else K)
    assert active.any(0).sum() > 0.8 * D_SAE
    if architecture != "matching_pursuit":
        assert not active[:, -N_DEAD:].any()


def test_sae_of_another_normalisation_is_written(tmp_path: Path, streams: dict[str, torch.Tensor]) -> None:
    write_autoencoder(tmp_path, "topk", streams["gpt2"], normalize_activations="layer_norm")
    assert json.loads((tmp_path / "cfg.json").read_text())["normalize_activations"] == "layer_norm"
    assert SAE.load_from_disk(tmp_path).cfg.normalize_activations == "layer_norm"


def test_embedding_folder_gives_different_unit_vectors(embedding_folder: Path) -> None:
    embeddings = load_embedding_model(str(embedding_folder)).embed([row["text"] for row in sample_rows(20)])
    assert embeddings.shape == (20, 32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
    assert (embeddings @ embeddings.T - np.eye(20)).max() < 0.999


def test_user_setups_lack_nothing(user_setups: Path, sae_folders: Mapping[str, Path]) -> None:
    setups = all_setups(user_setups)
    assert sae_folders.keys() <= setups.keys()
    assert {part for name in sae_folders for part in missing_parts(setups[name])} == set()
