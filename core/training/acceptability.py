"""Trains the acceptability classifier: the top of all-MiniLM-L6-v2 and a head, on CoLA (Warstadt et al. 2019).

Part of the training file (`dev`) is held back to choose the epoch and the threshold. The file `test` is used only at
the end, for the card. Figures are measured on the saved weights, after rounding to 16 bits.

It is also trained on made-up gibberish and paragraphs (`core.training.made_up_texts`); neither `dev` nor
`test` contains any.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from core.errors import CheckpointError, DivergedError, TrainingConfigError
from core.files import written_whole
from core.models.acceptability import WEIGHTS, MiniLMClassifier, tokenise
from core.progress import Progress
from core.training.acceptability_card import acceptability_figures, card
from core.training.cola import Sentence, best_threshold, labels, made_up, read_cola, split
from core.validated import Count, LearningRate, Name, NotNegative, Seed, Text, from_table, validated

_N_RESAMPLES = 2_000


@validated(TrainingConfigError)
class AcceptabilityConfig:
    """The `[acceptability]` table of a training TOML file."""

    train: Text  # CoLA's tab-separated file: source, label, the authors' mark, sentence
    test: Text
    name: Name = "acceptability"
    dev_share: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of `train`
    # paragraphs added per training sentence, and the same amount of gibberish
    made_up_share: Annotated[float, Field(ge=0, le=1)] = 0.15
    tuned_layers: Annotated[int, Field(ge=0, le=6)] = 3  # of six, from the top
    epochs: Count = 5
    batch_size: Count = 32
    lr: LearningRate = 1e-4  # AdamW, warm-up then linear to 0
    head_lr: LearningRate = 5e-4
    weight_decay: NotNegative = 0.01
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of the steps
    seed: Seed = 0


def config_from_table(table: dict[str, Any], where: str) -> AcceptabilityConfig:
    """A config from an `[acceptability]` table; `where` names it in errors.

    Raises:
        TrainingConfigError: an unknown or a missing key, or a value out of range.
    """
    return from_table(AcceptabilityConfig, table, where)


# ---- training ----


def _batches(sentences: Sequence[Sentence], size: int, rng: random.Random) -> list[list[Sentence]]:
    """Shuffled batches of sentences of similar length."""
    order = sorted(sentences, key=lambda s: (len(s.text) // 10, rng.random()))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    rng.shuffle(batches)
    return batches


def _probabilities(model: MiniLMClassifier, sentences: Sequence[Sentence]) -> Float[np.ndarray, "text"]:
    model.eval()
    with torch.inference_mode():
        parts = [
            model(tokenise(model.tokenizer, [s.text for s in sentences[i : i + 64]])).softmax(-1)[:, 1]
            for i in range(0, len(sentences), 64)
        ]
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class Epoch:
    """Figures after one pass over the training text."""

    loss: float  # mean over the pass, nats
    dev: float  # Matthews correlation at `threshold`
    threshold: float  # of the largest correlation


def fit(
    model: MiniLMClassifier,
    config: AcceptabilityConfig,
    sentences: Sequence[Sentence],
    dev: Sequence[Sentence],
    progress: Progress = lambda stage, share: None,
) -> list[Epoch]:
    """Trains; restores the weights of the epoch that is best on `dev`, shifted so that the threshold is one half."""
    rng = random.Random(config.seed)
    groups: list[dict[str, Any]] = [
        {"params": model.tuned.parameters()},
        {"params": model.head.parameters(), "lr": config.head_lr},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    steps = config.epochs * math.ceil(len(sentences) / config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / max(1.0, config.warmup * steps)) * (1 - step / steps)
    )
    epochs: list[Epoch] = []
    best: dict[str, torch.Tensor] = {}
    for number in range(config.epochs):
        model.train()
        losses, batches = [], _batches(sentences, config.batch_size, rng)
        for batch in batches:
            logits = model(tokenise(model.tokenizer, [s.text for s in batch]))
            loss = nn.functional.cross_entropy(logits, torch.tensor([int(s.acceptable) for s in batch]))
            if not torch.isfinite(loss):
                what = f"{config.name} stopped training, as the loss is {loss.item()} in epoch {number + 1}"
                raise DivergedError(
                    what, f"lr ({config.lr:g}) or head_lr ({config.head_lr:g})", "lower it; nothing is kept"
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            progress(f"epoch {number + 1}", (number + len(losses) / len(batches)) / config.epochs)
        threshold, value = best_threshold(labels(dev), _probabilities(model, dev))
        epochs.append(Epoch(float(np.mean(losses)), value, threshold))
        if value >= max(epoch.dev for epoch in epochs):
            best = {name: tensor.clone() for name, tensor in model.trained_state().items()}
            best[f"head.{len(model.head) - 1}.bias"][1] -= math.log(threshold / (1 - threshold))
    model.load_state_dict(best, strict=False)
    model.eval()
    return epochs


def train_acceptability(
    config: AcceptabilityConfig,
    text_folder: Path,
    out: Path,
    progress: Progress = lambda stage, share: None,
) -> Path:
    """Trains a classifier and writes its folder: weights, figures.json, and a card.

    Raises:
        MissingFileError, PromptFileError: see `read_cola`.
        CheckpointError: the disk is full or cannot be written.
    """
    torch.manual_seed(config.seed)
    sentences, dev = split(read_cola(text_folder / config.train), config.dev_share)
    added = made_up(sentences, round(config.made_up_share * len(sentences)), random.Random(config.seed))
    sentences += added
    test = read_cola(text_folder / config.test)
    model = MiniLMClassifier(config.tuned_layers)
    epochs = fit(model, config, sentences, dev, progress)
    weights = {name: tensor.half().contiguous() for name, tensor in model.trained_state().items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with written_whole(out / WEIGHTS) as partial:
            save_file(weights, partial)
        figures = acceptability_figures(
            out, asdict(config), [asdict(epoch) for epoch in epochs], len(sentences), len(added), dev, test
        )
        for name, text in (("figures.json", json.dumps(figures, indent=1) + "\n"), ("README.md", card(figures))):
            with written_whole(out / name) as partial:
                partial.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise CheckpointError(out, None, exc) from exc
    return out
