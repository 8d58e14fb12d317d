"""Linguistic acceptability: whether a text is well-formed English, as classifiers trained on CoLA judge it.

CoLA is the Corpus of Linguistic Acceptability (Warstadt et al. 2019). The Topic Alignment paper (4.3) reports the share
of texts that such a classifier accepts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.catalog import DATA, find_setup
from core.errors import AcceptabilityError, UnsafeWeightsError
from core.models.language_model import LanguageModel
from core.models.loading import best_device, load_language_model

VARIABLE = "STEERSCOPE_ACCEPTABILITY"  # environment variable: a classifier's folder or hub name
PUBLISHED = "textattack/roberta-base-CoLA"
EMBEDDED = DATA / "models" / "acceptability"  # trained for Steerscope: see its README
WEIGHTS = "model.safetensors"
ACCEPTED = 0.5  # lowest probability of acceptability at which a text counts as accepted
_MAX_TOKENS = 256
_TEXTS_AT_ONCE = 32


class Acceptability:
    """Says how likely texts are to be acceptable English."""

    def __init__(self, name: str, judge: Callable[[Sequence[str]], Float[Tensor, "text"]]) -> None:
        """
        Args:
            judge: gives the probability of each of some texts, none of which is empty.
        """
        self.name, self._judge = name, judge

    @torch.inference_mode()
    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "text"]:
        """Probability, 0 to 1, that each text is acceptable; NaN for an empty text."""
        probability = np.full(len(texts), np.nan)
        for batch in _batches_by_length(texts):
            probability[batch] = self._judge([texts[i].strip() for i in batch]).float().cpu().numpy()
        return probability


def _batches_by_length(texts: Sequence[str]) -> Iterator[list[int]]:
    """Indices of the texts that are not empty, those of similar length together."""
    written = sorted((i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i]))
    for start in range(0, len(written), _TEXTS_AT_ONCE):
        yield written[start : start + _TEXTS_AT_ONCE]


# ---- the embedded one: a linear probe on a language model's residual stream ----


@torch.inference_mode()
def residual_features(
    model: LanguageModel, texts: Sequence[str], blocks: Sequence[int], progress: Callable[[float], None] | None = None
) -> Float32[np.ndarray, "text feature"]:
    """What the probe reads of each text, which must not be empty.

    After each of the blocks: the residual stream at the text's last token, then its mean over the text's own tokens
    (the first token stands before every text, and is left out); 2 x d_model numbers a block.

    Args:
        progress: called with the share that is done.
    """
    hooks = [f"blocks.{block}.hook_resid_post" for block in blocks]
    features = np.empty((len(texts), 2 * len(blocks) * model.d_model), dtype=np.float32)
    done = 0
    for batch in _batches_by_length(texts):
        tokens = model.pad([model.tokenise(texts[i].strip(), max_length=_MAX_TOKENS, chat=False) for i in batch])
        own = (~tokens.special).float()[..., None]
        last = tokens.attention.sum(-1) - 1
        seen = model.activations_at(tokens, hooks)
        parts: list[Tensor] = []
        for x in (seen[hook].float() for hook in hooks):
            parts += [x[torch.arange(len(batch)), last], (x * own).sum(1) / own.sum(1)]
        features[batch] = torch.cat(parts, dim=-1).cpu().numpy()
        done += len(batch)
        if progress is not None:
            progress(done / len(texts))
    return features


@dataclass(frozen=True)
class Probe:
    """A logistic regression on `residual_features` of a setup's language model."""

    setup: str
    blocks: tuple[int, ...]
    weight: Float32[np.ndarray, "feature"]
    bias: float

    def probabilities(self, features: Float32[np.ndarray, "text feature"]) -> Float[np.ndarray, "text"]:
        """Probability that each text is acceptable."""
        logits = features.astype(np.float64) @ self.weight.astype(np.float64) + self.bias
        return np.asarray(1 / (1 + np.exp(-logits)))

    def save(self, path: Path) -> None:
        """Writes it as safetensors; setup and blocks are in the header."""
        tensors = {"weight": torch.from_numpy(self.weight), "bias": torch.tensor([self.bias])}
        header = {"setup": self.setup, "blocks": ",".join(map(str, self.blocks))}
        save_file(tensors, path, metadata=header)

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Reads what `save` wrote.

        Raises:
            OSError, ValueError, SafetensorError: it is damaged, or something else.
        """
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if set(file.keys()) != {"weight", "bias"} or header.keys() < {"setup", "blocks"}:
                raise ValueError("it does not hold a probe")
            weight, bias = file.get_tensor("weight").float().numpy(), float(file.get_tensor("bias"))
        return cls(header["setup"], tuple(map(int, header["blocks"].split(","))), weight, bias)


@cache
def load_probe(folder: Path) -> Acceptability:
    """Loads a probe that `core.training.acceptability` wrote, with the language model that it reads.

    Raises:
        AcceptabilityError: its weights are damaged, or do not fit the model.
        ModelFolderError, HubError, UnknownSetupError: the language model cannot be loaded.
    """
    try:
        probe = Probe.load(folder / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as exc:
        raise AcceptabilityError(
            f"cannot load the classifier in '{folder}': {str(exc).splitlines()[0]}; restore the folder"
        ) from exc
    model = load_language_model(find_setup(probe.setup))
    if len(probe.weight) != 2 * len(probe.blocks) * model.d_model or max(probe.blocks) >= model.n_layers:
        raise AcceptabilityError(f"the classifier in '{folder}' does not fit the model of '{probe.setup}'")

    def judge(texts: Sequence[str]) -> Float[Tensor, "text"]:
        return torch.from_numpy(probe.probabilities(residual_features(model, texts, probe.blocks)))

    return Acceptability(folder.name, judge)


# ---- any other ----


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
        ModelFolderError, HubError: the language model that our own reads cannot be loaded.
    """
    if place := os.environ.get(VARIABLE):
        return _classifier(place)
    if place := _published_in_cache():
        return _classifier(place)
    return load_probe(EMBEDDED) if (EMBEDDED / WEIGHTS).is_file() else None


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
    model: Any = encoder.model.to(best_device()).eval().requires_grad_(False)

    def judge(texts: Sequence[str]) -> Float[Tensor, "text"]:
        tokens = encoder.tokenizer(
            list(texts), padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        )
        probability: Tensor = model(**tokens.to(best_device())).logits.float().softmax(-1)[:, 1]
        return probability

    return Acceptability(place, judge)
