"""Trains the acceptability classifier: a linear probe on a language model's residual stream, on CoLA's sentences.

CoLA: Warstadt et al. 2019. The strength of the weight decay and the threshold are chosen by cross-validation within the
training file, over blocks of neighbouring sentences; the file `test` is used only at the end, for the card.

The probe is also trained on made-up gibberish and paragraphs (`core.training.made_up_texts`), which are in no fold that
is held back, nor in `test`.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Float, Float32
from pydantic import Field

from core.catalog import DEFAULT_SETUP, find_setup
from core.errors import CheckpointError, TrainingConfigError
from core.files import written_whole
from core.models.acceptability import WEIGHTS, Probe, residual_features
from core.models.language_model import LanguageModel
from core.models.loading import load_language_model
from core.progress import Progress
from core.training.acceptability_card import acceptability_figures, card
from core.training.cola import best_threshold, folds, labels, made_up, read_cola
from core.validated import Count, Name, Seed, Text, from_table, validated

_READING = 0.8  # share of the time that the language model takes, for the progress bar


@validated(TrainingConfigError)
class AcceptabilityConfig:
    """The `[acceptability]` table of a training TOML file."""

    train: Text  # CoLA's tab-separated file: source, label, the authors' mark, sentence
    test: Text
    name: Name = "acceptability"
    setup: Name = DEFAULT_SETUP  # whose language model is read
    # after which its residual stream is read
    blocks: list[Annotated[int, Field(ge=0)]] = field(default_factory=lambda: [14, 18])
    folds: Annotated[int, Field(ge=2)] = 5
    # half of it times the squared length of the weights is added to the mean loss; cross-validation chooses
    weight_decays: list[Annotated[float, Field(gt=0)]] = field(default_factory=lambda: [0.03, 0.1, 0.3, 1.0])
    # paragraphs added per training sentence, and the same amount of gibberish
    made_up_share: Annotated[float, Field(ge=0, le=1)] = 0.15
    max_steps: Count = 2_000  # of the optimiser
    seed: Seed = 0


def config_from_table(table: dict[str, Any], where: str) -> AcceptabilityConfig:
    """A config from an `[acceptability]` table; `where` names it in errors.

    Raises:
        TrainingConfigError: an unknown or a missing key, or a value out of range.
    """
    return from_table(AcceptabilityConfig, table, where)


# ---- training ----


@dataclass(frozen=True)
class Tried:
    """A strength of weight decay, and how well the folds that were held back came out."""

    weight_decay: float
    matthews: float  # Matthews correlation over all of them, at `threshold`
    threshold: float  # of the largest correlation


@dataclass(frozen=True)
class Examples:
    """Texts to learn from: what is read of them, and which are acceptable."""

    features: Float32[np.ndarray, "text feature"]
    acceptable: Bool[np.ndarray, "text"]


def _fitted(examples: Examples, weight_decay: float, max_steps: int) -> tuple[Float[np.ndarray, "feature"], float]:
    """Weights and bias of a logistic regression on the features, each brought to mean 0 and variance 1 first."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = examples.features.mean(0), examples.features.std(0) + 1e-6
    strength = 1 / (weight_decay * len(examples.acceptable))
    regression = LogisticRegression(C=strength, max_iter=max_steps)
    regression.fit((examples.features - mean) / spread, examples.acceptable)
    weight = regression.coef_[0] / spread  # of the features as they are
    return weight, float(regression.intercept_[0] - mean @ weight)


def fit(
    config: AcceptabilityConfig,
    sentences: Examples,
    added: Examples,
    progress: Progress = lambda stage, share: None,
) -> tuple[Probe, list[Tried]]:
    """Trains a probe; its threshold, chosen on the sentences held back, is moved to one half.

    Args:
        sentences: in the order of their file, as neighbours are held back together.
        added: learnt from in every fold, and never held back.
    """

    def fitted(kept: Bool[np.ndarray, "text"], decay: float) -> Probe:
        features = np.concatenate([sentences.features[kept], added.features])
        acceptable = np.concatenate([sentences.acceptable[kept], added.acceptable])
        weight, bias = _fitted(Examples(features, acceptable), decay, config.max_steps)
        return Probe(config.setup, tuple(config.blocks), weight.astype(np.float32), bias)

    fold = folds(len(sentences.acceptable), config.folds)
    tried: list[Tried] = []
    for decay in config.weight_decays:
        probability = np.empty(len(fold))
        for number in range(config.folds):
            held = fold == number
            probability[held] = fitted(~held, decay).probabilities(sentences.features[held])
            done = len(tried) + (number + 1) / config.folds
            progress("cross-validation", _READING + (1 - _READING) * done / len(config.weight_decays))
        threshold, value = best_threshold(sentences.acceptable, probability)
        tried.append(Tried(decay, value, threshold))
    best = max(tried, key=lambda one: one.matthews)
    probe = fitted(np.ones(len(fold), dtype=bool), best.weight_decay)
    shift = math.log(best.threshold / (1 - best.threshold))
    return Probe(probe.setup, probe.blocks, probe.weight, probe.bias - shift), tried


def train_acceptability(
    config: AcceptabilityConfig,
    text_folder: Path,
    out: Path,
    progress: Progress = lambda stage, share: None,
) -> Path:
    """Trains a probe and writes its folder: weights, figures.json, and a card.

    Raises:
        MissingFileError, PromptFileError: see `read_cola`.
        TrainingConfigError: the language model does not have one of the blocks.
        UnknownSetupError, ModelFolderError, HubError: the setup's language model cannot be loaded.
        CheckpointError: the disk is full or cannot be written.
    """
    sentences, test = read_cola(text_folder / config.train), read_cola(text_folder / config.test)
    added = made_up(sentences, round(config.made_up_share * len(sentences)), random.Random(config.seed))
    model = load_language_model(find_setup(config.setup), progress)
    if (last := max(config.blocks)) >= model.n_layers:
        raise TrainingConfigError(f"blocks has {last}, but the model of '{config.setup}' has 0 to {model.n_layers - 1}")
    texts = [sentence.text for sentence in (*sentences, *added)]
    features = _read(model, texts, config, progress)
    known = Examples(features[: len(sentences)], labels(sentences))
    probe, tried = fit(config, known, Examples(features[len(sentences) :], labels(added)), progress)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with written_whole(out / WEIGHTS) as partial:
            probe.save(partial)
        figures = acceptability_figures(
            out, asdict(config), [asdict(one) for one in tried], len(sentences), len(added), test
        )
        for name, text in (("figures.json", json.dumps(figures, indent=1) + "\n"), ("README.md", card(figures))):
            with written_whole(out / name) as partial:
                partial.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise CheckpointError(out, None, exc) from exc
    return out


def _read(
    model: LanguageModel, texts: Sequence[str], config: AcceptabilityConfig, progress: Progress
) -> Float32[np.ndarray, "text feature"]:
    return residual_features(model, texts, config.blocks, lambda share: progress("reading", _READING * share))
