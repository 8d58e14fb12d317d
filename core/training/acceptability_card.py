"""The card (README) of a trained acceptability classifier, and the figures in it."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from core.models.acceptability import ACCEPTED, load_probe
from core.text.prompts import reference_prompts
from core.training.cola import Sentence, labels, matthews, matthews_interval
from core.training.made_up_texts import GIBBERISH, gibberish, paragraph

_CHECKED_PROMPTS = 500  # bundled reference prompts whose acceptance rate the card reports
_CHECKED_MADE_UP = 200  # made-up texts of each kind


def acceptability_figures(
    folder: Path,
    config: dict[str, Any],
    tried: Sequence[dict[str, float]],
    n_sentences: int,
    n_made_up: int,
    test: Sequence[Sentence],
) -> dict[str, Any]:
    """The figures for the card, measured on the classifier saved in `folder`."""
    written = load_probe.__wrapped__(folder)  # bypasses the cache, which may hold an earlier one

    def accepted(texts: Sequence[str]) -> Bool[np.ndarray, "text"]:
        return written.probabilities(texts) >= ACCEPTED

    actual, predicted = labels(test), accepted([s.text for s in test])
    prompts = [prompt.text for prompt in reference_prompts("embedded", _CHECKED_PROMPTS)]
    rng = random.Random(config["seed"])
    shuffled = [" ".join(rng.sample(words, len(words))) for words in map(str.split, prompts)]
    acceptable = [s.text for s in test if s.acceptable]
    paragraphs = [paragraph(acceptable, rng) for _ in range(_CHECKED_MADE_UP)]
    nonsense = {kind: [gibberish(kind, acceptable, rng) for _ in range(_CHECKED_MADE_UP)] for kind in GIBBERISH}
    return {
        "config": config,
        "tried": tried,
        "trained_on": n_sentences + n_made_up,
        "made_up": n_made_up,
        "held_back": {"n": n_sentences, "matthews": max(one["matthews"] for one in tried)},
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
    """The card's table of measured figures, in Markdown."""
    held_back, test, accepted = figures["held_back"], figures["test"], figures["accepted"]
    low, high = test["interval"]
    made = {"paragraphs": "paragraphs", **{kind: f"gibberish ({kind})" for kind in GIBBERISH}}
    rows = [
        "| measured on | n | figure |",
        "| --- | ---: | --- |",
        f"| CoLA, in-domain development file; nothing was chosen by it | {test['n']} | Matthews correlation "
        f"**{test['matthews']:.3f}** (95% bootstrap {low:.3f} to {high:.3f}), accuracy {test['accuracy']:.3f}; always "
        f'"acceptable" has 0 and {test["acceptable"]:.3f} |',
        f"| the training file, each fold by a probe that had not seen it; decay and threshold were chosen by it | "
        f"{held_back['n']} | {held_back['matthews']:.3f} |",
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
    """The classifier's card (README.md), in Markdown."""
    config = figures["config"]
    blocks = " and ".join(map(str, config["blocks"]))
    decay = max(figures["tried"], key=lambda one: float(one["matthews"]))["weight_decay"]
    return f"""# acceptability

Says how likely a text is to be acceptable English. A **weak** classifier: a logistic regression on the residual stream
of the language model of setup `{config["setup"]}` after blocks {blocks}, at the text's last token and in the mean over
its tokens. It stands in where `textattack/roberta-base-CoLA` cannot be had; name a better one in
`STEERSCOPE_ACCEPTABILITY` (a folder or a hub name; safetensors only).

`model.safetensors` holds the regression's weights; the language model is the setup's own.

## How good it is

{_measured(figures)}

RoBERTa-base is reported to reach 0.636. CoLA has short sentences from books on grammar; a continuation of 64 tokens
that begins in the middle of a sentence is another kind of text. Compare columns; do not read one share by itself.

## Training

{figures["trained_on"]:,} texts, weight decay {decay:g} of {", ".join(f"{d:g}" for d in config["weight_decays"])}, by
cross-validation over {config["folds"]} folds of blocks of 50 neighbouring sentences; seed {config["seed"]}.
{figures["made_up"]:,} of the texts are not CoLA's: one half are paragraphs of two to five of its acceptable sentences,
the other half gibberish made of them (a quarter of it pieces of words, a quarter repetition, the rest words in random
order). They were added after an earlier classifier, trained on CoLA's sentences alone, had been seen to accept what a
clamped model writes ("angangangpepe"), and the random order after the bundled prompts with their words in random order
had been accepted; no text of any model is among them.

Again: `python -m core train data/configs/acceptability.toml --text FOLDER`.

## Data and licences

- CoLA (Warstadt, Singh and Bowman 2019, *Neural Network Acceptability Judgments*): sentences from published
  linguistics, whose authors and publishers keep their rights; given out for research. It is not in this repository.
- SmolLM2-135M-Instruct, the language model of `smollm2`: Apache-2.0.
"""
