"""The figures of an SAE against a computation conversation by conversation with transformers and sae_lens alone."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import SAE
from torch import Tensor
from transformers import AutoModelForCausalLM

from core.catalog import Setup
from core.errors import AutoencoderError
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import load_sparse_autoencoder
from core.training.autoencoder_config import AutoencoderConfig
from core.training.conversations import ConversationBatches, encode_conversations
from core.training.corpus import Document
from core.training.encoded_texts import CONTENT, MARKER, ROLE, EncodedTexts
from core.training.sae_card import card
from core.training.sae_evaluation import Evaluation, HeldOutText, evaluate_autoencoder
from core.training.shared_activations import KeptChunks
from tests.core.training.conftest import Configure

LAYER = 1  # of the fixtures' SAEs: after block 1, hidden_states[2]


@pytest.fixture(scope="module")
def texts(chat_model: LanguageModel) -> EncodedTexts:
    questions = ["What is a heart?", "Say no.", "A longer question about the weather, and about rain?"]
    chats = (
        Document("", ({"role": "user", "content": q}, {"role": "assistant", "content": q[::-1] * (i + 1)}))
        for i, q in enumerate(questions)
    )
    return EncodedTexts.join(encode_conversations(chats, chat_model), "test")


@pytest.fixture(scope="module", params=["jumprelu", "topk"])
def sae_folder(request: pytest.FixtureRequest, sae_folders: dict[str, Path]) -> Path:
    return sae_folders[f"qwen2-{request.param}"]


def evaluation(
    model: LanguageModel, folder: Path, texts: EncodedTexts, *, keep_special: bool, skip_first: bool = False
) -> Evaluation:
    sae = load_sparse_autoencoder(Setup(name="sae", model="none", sae=str(folder)))
    batches = ConversationBatches(texts, max_tokens=64, tokens_per_batch=100, seed=0)
    text = HeldOutText(batches=batches, max_tokens=10_000, keep_special=keep_special, skip_first=skip_first)
    return evaluate_autoencoder(sae, model, text)


class Reference:
    """Everything by plain loops: one conversation a forward pass, the hook put in by hand."""

    def __init__(
        self, model_folder: Path, sae_folder: Path, texts: EncodedTexts, *, keep_special: bool, skip_first: bool
    ) -> None:
        self.first = int(skip_first)  # of each conversation's tokens that counts
        self.model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
        self.sae = SAE.load_from_disk(sae_folder).eval()
        self.x, self.x_hat, self.a, self.kinds = [], [], [], []
        self.nats: dict[str, float] = {"model": 0.0, "spliced": 0.0, "zero": 0.0}
        self.predicted = 0
        for start, end in zip(texts.starts[:-1], texts.starts[1:], strict=True):
            ids = torch.from_numpy(texts.ids[start:end].astype(np.int64))[None, :64]
            kinds = texts.kinds[start:end][:64]
            with torch.no_grad():
                x = self.model(ids, output_hidden_states=True).hidden_states[LAYER + 1][0]
                a = self.sae.encode(x)
                x_hat = self.sae.decode(a)
            kept = torch.from_numpy((kinds == CONTENT) | keep_special)[:, None]
            kept[: self.first] = False
            for name, new in (("model", x), ("spliced", x_hat), ("zero", torch.zeros_like(x))):
                self.nats[name] += self._nats(ids, torch.where(kept, new, x))
            self.predicted += ids.shape[1] - 1
            for store, value in ((self.x, x), (self.x_hat, x_hat), (self.a, a), (self.kinds, kinds)):
                store.append(np.asarray(value))

    def _nats(self, ids: Tensor, new: Tensor) -> float:
        handle = self.model.model.layers[LAYER].register_forward_hook(lambda *_: new[None])
        try:
            with torch.no_grad():
                logits = self.model(ids).logits[0]
        finally:
            handle.remove()
        return torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum").item()

    def mse(self, keep: str) -> tuple[float, float, int]:
        """(mean over conversations, pooled mean, tokens) over one kind of tokens."""
        means, everything = [], []
        for x, x_hat, kinds in zip(self.x, self.x_hat, self.kinds, strict=True):
            where = {
                "all": kinds >= 0,
                "content": kinds == CONTENT,
                "special": (kinds == ROLE) | (kinds == MARKER),
                "without_roles": kinds == MARKER,
                "template": kinds != CONTENT,
                "first": np.arange(len(kinds)) == 0,
            }[keep]
            if keep != "first":
                where[: self.first] = False
            error = ((x - x_hat) ** 2).mean(1)[where]
            means.append(error.mean())
            everything.extend(error)
        return float(np.mean(means)), float(np.mean(everything)), len(everything)


@pytest.mark.parametrize(("keep_special", "skip_first"), [(True, False), (False, False), (True, True)])
def test_figures_equal_a_computation_by_hand(
    chat_model: LanguageModel,
    qwen2_folder: Path,
    sae_folder: Path,
    texts: EncodedTexts,
    keep_special: bool,
    skip_first: bool,
) -> None:
    got = evaluation(chat_model, sae_folder, texts, keep_special=keep_special, skip_first=skip_first)
    reference = Reference(qwen2_folder, sae_folder, texts, keep_special=keep_special, skip_first=skip_first)
    for error, keep in (
        (got.mse_all, "all" if keep_special else "content"),
        (got.mse_special, "special"),
        (got.mse_special_without_roles, "without_roles"),
        (got.mse_template, "template"),
        (got.mse_first, "first"),
    ):
        by_sequence, pooled, tokens = reference.mse(keep)
        assert error.by_sequence == pytest.approx(by_sequence, rel=1e-4)
        assert error.pooled == pytest.approx(pooled, rel=1e-4)
        assert error.tokens == tokens
        assert error.log2 == pytest.approx(math.log2(by_sequence), abs=1e-3)
    kept = [
        ((kinds == CONTENT) | keep_special) & (np.arange(len(kinds)) >= reference.first) for kinds in reference.kinds
    ]
    x, x_hat, a = (
        np.concatenate([v[k] for v, k in zip(values, kept, strict=True)])
        for values in (reference.x, reference.x_hat, reference.a)
    )
    assert (got.sequences, got.tokens) == (3, len(x))
    assert got.l0 == pytest.approx((a != 0).sum(1).mean())
    assert got.dead_share == pytest.approx(1 - (a != 0).any(0).mean())
    explained = 1 - ((x - x_hat) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert got.explained_variance == pytest.approx(explained, abs=1e-4)
    model, spliced, zero = (reference.nats[k] / reference.predicted for k in ("model", "spliced", "zero"))
    assert (got.ce_model, got.ce_spliced, got.ce_zero) == pytest.approx((model, spliced, zero), rel=1e-4)
    assert got.ce_recovered == pytest.approx((zero - spliced) / (zero - model), abs=1e-3)
    assert spliced != pytest.approx(model, rel=1e-3)  # the splice has an effect


def test_evaluation_stops_at_its_tokens(chat_model: LanguageModel, sae_folder: Path, texts: EncodedTexts) -> None:
    sae = load_sparse_autoencoder(Setup(name="sae", model="none", sae=str(sae_folder)))
    batches = ConversationBatches(texts, max_tokens=64, tokens_per_batch=64, seed=0)
    got = evaluate_autoencoder(sae, chat_model, HeldOutText(batches=batches, max_tokens=1, keep_special=True))
    assert got.sequences == 1


def test_cross_entropy_is_of_the_first_tokens_alone_where_asked(
    chat_model: LanguageModel, sae_folder: Path, texts: EncodedTexts
) -> None:
    sae = load_sparse_autoencoder(Setup(name="sae", model="none", sae=str(sae_folder)))
    batches = ConversationBatches(texts, max_tokens=64, tokens_per_batch=64, seed=0)

    def evaluated(**limits: int) -> Evaluation:
        text = HeldOutText(batches=batches, keep_special=True, **{"max_tokens": 10_000, **limits})
        return evaluate_autoencoder(sae, chat_model, text)

    partly, first, whole = evaluated(cross_entropy_tokens=1), evaluated(max_tokens=1), evaluated()
    assert (partly.sequences, first.sequences) == (3, 1)
    assert partly.ce_spliced == first.ce_spliced != whole.ce_spliced
    assert partly.mse_all == whole.mse_all


def test_kept_activations_change_no_figure(
    chat_model: LanguageModel, sae_folder: Path, texts: EncodedTexts, tmp_path: Path
) -> None:
    sae = load_sparse_autoencoder(Setup(name="sae", model="none", sae=str(sae_folder)))
    batches = ConversationBatches(texts, max_tokens=64, tokens_per_batch=64, seed=0)
    plain = HeldOutText(batches=batches, max_tokens=10_000, keep_special=True)
    shared = replace(plain, kept=KeptChunks(tmp_path, 10**9, [sae.hook_name, "blocks.0.hook_resid_post"]))
    expected = evaluate_autoencoder(sae, chat_model, plain)
    assert evaluate_autoencoder(sae, chat_model, shared) == expected  # computed and kept
    assert evaluate_autoencoder(sae, chat_model, shared) == expected  # read
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 2 * batches.batches_in_first_pass


def test_sae_of_another_width_is_refused(
    chat_model: LanguageModel, configure: Configure, texts: EncodedTexts, tmp_path: Path
) -> None:
    from core.training.autoencoders import new_autoencoder

    new_autoencoder(configure(), d_in=16).save_inference_model(tmp_path)
    with pytest.raises(AutoencoderError, match=r"reads 16 dimensions at blocks.1.hook_resid_post, but .* has 32 there"):
        evaluation(chat_model, tmp_path, texts, keep_special=True)


def test_card_and_file_hold_the_figures(
    chat_model: LanguageModel, configure: Configure, sae_folder: Path, texts: EncodedTexts, tmp_path: Path
) -> None:
    got = evaluation(chat_model, sae_folder, texts, keep_special=True)
    got.save(tmp_path)
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["mse_special"]["by_sequence"] == got.mse_special.by_sequence
    assert saved["mse_special_log2"] == got.mse_special.log2
    config: AutoencoderConfig = configure(method="fast", keep_special=True)
    text = card(config, got, 32, "1,200 conversations in a pass, 3 truncated at 64 tokens")
    assert "attention sink" not in text
    assert "128 neurons over 32 dimensions" in text
    settings = {"first_token": "<|endoftext|>", "skip_first": True, "d_sae": 50}
    mixed = card(configure(method="fast", **settings), got, 32, "")
    assert "Plain documents begin with `<|endoftext|>` (plain documents run alone, too)." in mixed
    assert "The first position of each text is an attention sink" in mixed
    assert "50 neurons over 32 dimensions" in mixed
    for expected in (
        "FAST: each conversation in the chat template, run alone, truncated",
        "- 1,200 conversations in a pass, 3 truncated at 64 tokens.",
        "activations at special tokens trained on, too",
        f"| active neurons a token (L0) | {got.l0:.1f} |",
        f"| special tokens (role words and markers) | {got.mse_special.by_sequence:.4f} ({got.mse_special.log2:.3f}) |",
        "| `chats.jsonl` | CC0 | 1 |",
    ):
        assert expected in text
