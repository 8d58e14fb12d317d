"""Linguistic acceptability: whether a text is well-formed English, as classifiers trained on CoLA judge it.

CoLA is the Corpus of Linguistic Acceptability (Warstadt et al. 2019). The Topic Alignment paper (4.3) reports the share
of texts that such a classifier accepts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from core.catalog import DATA
from core.errors import AcceptabilityError, UnsafeWeightsError
from core.models.embeddings import embedded_model_folder
from core.models.loading import best_device

VARIABLE = "STEERSCOPE_ACCEPTABILITY"  # environment variable: a classifier's folder or hub name
PUBLISHED = "textattack/roberta-base-CoLA"
EMBEDDED = DATA / "models" / "acceptability"  # trained for Steerscope: see its README
WEIGHTS = "model.safetensors"
ACCEPTED = 0.5  # lowest probability of acceptability at which a text counts as accepted
_MAX_TOKENS = 256
_TEXTS_AT_ONCE = 32


class Acceptability:
    """A classifier with two classes, the second of which is `acceptable`."""

    def __init__(
        self, name: str, tokenizer: Any, model: nn.Module, logits: Callable[[Any], Float[Tensor, "text 2"]]
    ) -> None:
        self.name, self.device = name, best_device()
        self._tokenizer, self._logits = tokenizer, logits
        model.to(self.device).eval().requires_grad_(False)

    @torch.inference_mode()
    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "text"]:
        """Probability, 0 to 1, that each text is acceptable; NaN for an empty text."""
        probability = np.full(len(texts), np.nan)
        written = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i]))
        for start in range(0, len(written), _TEXTS_AT_ONCE):
            batch = written[start : start + _TEXTS_AT_ONCE]
            tokens = tokenise(self._tokenizer, [texts[i] for i in batch]).to(self.device)
            probability[batch] = self._logits(tokens).float().softmax(-1)[:, 1].cpu().numpy()
        return probability


def tokenise(tokenizer: Any, texts: Sequence[str]) -> Any:
    """A padded batch (`input_ids`, `attention_mask`) of stripped texts, each truncated to `_MAX_TOKENS` tokens."""
    stripped = [text.strip() for text in texts]
    return tokenizer(stripped, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt")


class MiniLMClassifier(nn.Module):
    """all-MiniLM-L6-v2 with trainable top layers, and a classification head on its mean last hidden state."""

    def __init__(self, tuned_layers: int) -> None:
        from sentence_transformers import SentenceTransformer

        super().__init__()
        base = SentenceTransformer(str(embedded_model_folder()), device="cpu", local_files_only=True)
        bert: Any = base[0].auto_model
        self.tokenizer: Any = base.tokenizer
        self.bert: nn.Module = bert
        self.tuned: nn.ModuleList = bert.encoder.layer[len(bert.encoder.layer) - tuned_layers :]
        d: int = bert.config.hidden_size
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(d, d), nn.Tanh(), nn.Dropout(0.1), nn.Linear(d, 2))
        self.bert.requires_grad_(False)
        self.tuned.requires_grad_(True)
        self.eval()

    def train(self, mode: bool = True) -> MiniLMClassifier:
        """Switches training mode; frozen layers stay without dropout."""
        super().train(mode)
        self.bert.eval()
        self.tuned.train(mode)
        return self

    def forward(self, tokens: Any) -> Float[Tensor, "text 2"]:
        hidden = self.bert(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(hidden)
        logits: Tensor = self.head((hidden * mask).sum(1) / mask.sum(1))
        return logits

    def trained_state(self) -> dict[str, Tensor]:
        """The trained tensors: those of the top layers and the head."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}


def _published_in_cache() -> str | None:
    """Folder of the published classifier in the hub's cache; None unless its safetensors weights are there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(PUBLISHED, WEIGHTS)
    return str(Path(found).parent) if isinstance(found, str) else None


def load_acceptability() -> Acceptability | None:
    """The classifier that $STEERSCOPE_ACCEPTABILITY names, else the published one from the hub's cache, else our own.

    Returns None if there is none; acceptability is then shown as not available.

    Raises:
        AcceptabilityError: the classifier cannot be loaded, or does not have two classes.
        UnsafeWeightsError: its folder has only pickled weights.
    """
    if place := os.environ.get(VARIABLE):
        return _classifier(place)
    if place := _published_in_cache():
        return _classifier(place)
    return load_minilm_classifier(EMBEDDED) if (EMBEDDED / WEIGHTS).is_file() else None


@cache
def _classifier(place: str) -> Acceptability:
    """A transformers sequence classifier, by folder or hub name."""
    from sentence_transformers import CrossEncoder

    local = Path(place).is_dir()
    if local and not any(Path(place).glob("*.safetensors")):
        raise UnsafeWeightsError(place)
    try:
        # CrossEncoder scores pairs of texts: only its model and tokenizer are used
        encoder = CrossEncoder(place, local_files_only=local, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        reason = str(exc).splitlines()[0]
        raise AcceptabilityError(
            f"cannot load the classifier '{place}' ({reason}); set {VARIABLE} to the folder of one trained on CoLA"
        ) from exc
    if encoder.num_labels != 2:
        raise AcceptabilityError(
            f"'{place}' has {encoder.num_labels} classes; set {VARIABLE} to a classifier of two, the second acceptable"
        )
    model: Any = encoder.model
    return Acceptability(place, encoder.tokenizer, model, lambda tokens: model(**tokens).logits)


@cache
def load_minilm_classifier(folder: Path) -> Acceptability:
    """Loads a classifier that `core.training.acceptability` wrote.

    Raises:
        AcceptabilityError: its weights are damaged, or do not fit the model.
    """
    try:
        state = load_file(folder / WEIGHTS)
        layers = {name.split(".")[3] for name in state if name.startswith("bert.encoder.layer.")}
        model = MiniLMClassifier(len(layers))
        if state.keys() != model.trained_state().keys():
            raise ValueError("its tensors are not those of a classifier on all-MiniLM-L6-v2")
        model.load_state_dict(state, strict=False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
        raise AcceptabilityError(
            f"cannot load the classifier in '{folder}': {str(exc).splitlines()[0]}; restore the folder"
        ) from exc
    return Acceptability(folder.name, model.tokenizer, model, model)
