"""What each edit does to the layer's output, token by token (Topic Alignment paper, 4.2 and A.4; Fig. 5, 6 and 13).

No text is generated. The activations of the topic's own prompts (aligned) and of prompts about something else
(unaligned) are edited at the hook point, each ordinary token by itself, and compared with the original and with the
SAE's reconstruction. Special tokens are left out, as in the paper.

Tokens of one prompt are not independent. Means and their intervals are therefore over prompts, each represented by the
mean of its tokens; those of `ALL_TOPICS` are over topics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.build.activations import BATCH_TOKENS, length_sorted_batches
from core.evaluation.experiments import ExperimentOptions
from core.models.language_model import LanguageModel
from core.progress import Progress
from core.results.statistics import bootstrap_mean, paired_difference
from core.scoring.scorer import ScoredTopic
from core.steering.code_edits import CodeOutcome, Edit
from core.steering.edits import EditName
from core.steering.metrics import contamination, contamination_share, neurons_changed, reconstruction_delta
from core.steering.settings import SteeringSettings
from core.steering.workbench import Workbench
from core.text.prompts import unaligned_prompts

COLUMNS: tuple[EditName, ...] = ("sae", "clamp", "swap", "weight")
EDITED: tuple[EditName, ...] = ("clamp", "swap", "weight")  # compared with `sae`
ALIGNED, UNALIGNED = "aligned", "unaligned"
ALL_TOPICS = "all"  # the mean over topics
FIGURES = ("neurons_changed", "reconstruction_delta", "contamination", "contamination_share")
N_POINTS = 250  # tokens kept per topic and set, the same under every edit
N_EXTREMES = 10  # tokens listed at either end
_CONTEXT_TOKENS = 10  # context on either side
_BLOCK = 512  # tokens edited at once, to limit the dense [token d_sae] blocks


# ---- tokens and what an edit does to them ----


@dataclass(frozen=True)
class Text:
    """The ordinary tokens of some prompts, and their activations at a hook point."""

    x: Float[Tensor, "token d_in"]
    prompt: Int[np.ndarray, "token"]
    position: Int[np.ndarray, "token"]  # among the prompt's ordinary tokens, from 0
    strings: dict[int, list[str]]  # the ordinary tokens of each prompt

    def context(self, token: int) -> dict[str, str]:
        """The token, and the text before and after it."""
        strings, at = self.strings[int(self.prompt[token])], int(self.position[token])
        return {
            "before": "".join(strings[max(0, at - _CONTEXT_TOKENS) : at]),
            "token": strings[at],
            "after": "".join(strings[at + 1 : at + 1 + _CONTEXT_TOKENS]),
        }


@torch.inference_mode()
def read_text(model: LanguageModel, hook_name: str, prompts: Sequence[str]) -> Text:
    """Runs prompts up to the hook point; longer ones are truncated to the model's context."""
    tokenised = [model.tokenise(text, max_length=model.n_context) for text in prompts]
    x, prompt, position, strings = [], [], [], {}
    for batch in length_sorted_batches([len(p.ids) for p in tokenised], BATCH_TOKENS):
        tokens = model.pad([tokenised[i] for i in batch])
        ordinary = ~tokens.special
        x.append(model.activations(tokens, hook_name)[ordinary])
        for row, i in enumerate(batch):
            strings[i] = model.token_strings(tokens.ids[row][ordinary[row]].tolist())
            prompt.append(np.full(len(strings[i]), i))
            position.append(np.arange(len(strings[i])))
    return Text(torch.cat(x), np.concatenate(prompt), np.concatenate(position), strings)


@torch.inference_mode()
def token_figures(edit: Edit, text: Text, score: Float[Tensor, "d_sae"]) -> pd.DataFrame:
    """What an edit through an SAE does to every token.

    Args:
        score: of each neuron, for contamination.

    Returns:
        One row per token: prompt, FIGURES, and sae_error (mse(x_sae, x), from which reconstruction_delta is measured).
    """
    blocks: dict[str, list[np.ndarray]] = {name: [] for name in (*FIGURES, "sae_error")}
    for x in text.x.split(_BLOCK):
        outcome = edit.explain(x)
        assert isinstance(outcome, CodeOutcome)
        figures = {
            "neurons_changed": neurons_changed(outcome, len(score)),
            "reconstruction_delta": reconstruction_delta(outcome),
            "contamination": contamination(outcome.edited_a, score),
            "contamination_share": contamination_share(outcome.edited_a, score),
            "sae_error": (outcome.reconstructed - outcome.x).pow(2).mean(-1),
        }
        for name, values in figures.items():
            blocks[name].append(values.double().cpu().numpy())
    return pd.DataFrame({"prompt": text.prompt, **{name: np.concatenate(parts) for name, parts in blocks.items()}})


# ---- tables of one topic, edit and set ----


def correlation(figures: pd.DataFrame) -> float:
    """Spearman's correlation of contamination and reconstruction delta over tokens; NaN if either is constant."""
    ranks = figures[["contamination", "reconstruction_delta"]].rank()
    if (ranks.nunique() < 2).any():
        return float("nan")
    return float(ranks.corr().iloc[0, 1])


def summarise(figures: pd.DataFrame) -> dict[str, float]:
    """Mean of each figure over prompts with its 95% interval, and the spread of reconstruction delta over tokens."""
    by_prompt = figures.groupby("prompt").mean()
    line: dict[str, float] = {"n": len(by_prompt), "tokens": len(figures)}
    for name in FIGURES:
        interval = bootstrap_mean(by_prompt[name].to_numpy())
        line |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    delta = figures["reconstruction_delta"]
    line |= {"delta_p5": float(delta.quantile(0.05)), "delta_p95": float(delta.quantile(0.95))}
    return line | {"sae_error": float(by_prompt["sae_error"].mean()), "correlation": correlation(figures)}


def changed_histogram(figures: pd.DataFrame) -> pd.DataFrame:
    """Tokens by number of neurons changed: columns neurons_changed, tokens, share (Fig. 5)."""
    counts = figures["neurons_changed"].astype(int).value_counts().sort_index()
    return pd.DataFrame({"neurons_changed": counts.index, "tokens": counts.to_numpy(), "share": counts / len(figures)})


def extremes(figures: pd.DataFrame, text: Text) -> pd.DataFrame:
    """The tokens with the lowest and the highest reconstruction delta, in context; at most N_EXTREMES each."""
    order = np.argsort(figures["reconstruction_delta"].to_numpy(), kind="stable")
    n = min(N_EXTREMES, len(order) // 2)
    table = in_context(figures, text, [*order[:n], *order[::-1][:n]])
    return table.assign(end=["lowest"] * n + ["highest"] * n, place=[*range(1, n + 1)] * 2)


def in_context(figures: pd.DataFrame, text: Text, tokens: Iterable[int]) -> pd.DataFrame:
    """The chosen tokens in context with their figures: columns before, token, after, FIGURES."""
    at = [int(token) for token in tokens]
    chosen = figures.iloc[at][list(FIGURES)].reset_index(drop=True)
    return pd.concat([pd.DataFrame([text.context(token) for token in at]), chosen], axis="columns")


# ---- tables over topics ----


def over_topics(summary: pd.DataFrame) -> pd.DataFrame:
    """One row per edit and set for ALL_TOPICS: means of the topics' means, with intervals over topics."""
    rows = []
    for (edit, set_name), group in summary.groupby(["edit", "set"], sort=False):
        line: dict[str, object] = {"topic": ALL_TOPICS, "edit": edit, "set": set_name, "n": len(group)}
        line["tokens"] = int(group["tokens"].sum())
        for name in FIGURES:
            interval = bootstrap_mean(group[name].to_numpy())
            line |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        means = group[["delta_p5", "delta_p95", "sae_error", "correlation"]].mean()
        rows.append(line | means.to_dict())
    return pd.DataFrame(rows)


def contrasts(summary: pd.DataFrame) -> pd.DataFrame:
    """The paper's comparisons, paired by topic: one edit on aligned and unaligned text, and two edits on the same text.

    Returns:
        Columns first and second (each `edit, set`), figure, difference (first - second), low, high (95%), n (topics).
    """
    means = summary.assign(column=summary["edit"] + ", " + summary["set"]).pivot(index="topic", columns="column")
    pairs = [(f"{edit}, {ALIGNED}", f"{edit}, {UNALIGNED}") for edit in EDITED]
    pairs += [(f"swap, {name}", f"{other}, {name}") for other in ("sae", "clamp") for name in (ALIGNED, UNALIGNED)]
    rows = []
    for first, second in pairs:
        for figure in FIGURES:
            interval = paired_difference(means[figure, first], means[figure, second])
            rows.append((first, second, figure, interval.mean, interval.low, interval.high, interval.n))
    return pd.DataFrame(rows, columns=["first", "second", "figure", "difference", "low", "high", "n"])


# ---- the experiment ----


def _tables(
    workbench: Workbench, scored: ScoredTopic, texts: dict[str, Text], steering: SteeringSettings, seed: int
) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of one topic, each with the name of the table that they belong to."""
    score = torch.from_numpy(scored.scores.steering_vector()).to(workbench.sae.W_dec)
    rng = np.random.default_rng(seed)
    shown = {name: np.sort(rng.permutation(len(text.x))[:N_POINTS]) for name, text in texts.items()}
    for edit_name in COLUMNS:
        edit = workbench.edit(edit_name, scored, steering)
        assert edit is not None
        for set_name, text in texts.items():
            figures = token_figures(edit, text, score)
            labels = {"topic": scored.topic.name, "edit": edit_name, "set": set_name}
            yield "layer", pd.DataFrame([{**labels, **summarise(figures)}])
            if edit_name in EDITED:
                yield "layer-changed", _labelled(changed_histogram(figures), labels)
                yield "layer-tokens", _labelled(in_context(figures, text, shown[set_name]), labels)
                yield "layer-extremes", _labelled(extremes(figures, text), labels)


def _labelled(table: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
    return table.assign(**labels)[[*labels, *table.columns]]


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `layer` (means), `layer-contrasts`, `layer-changed`, `layer-tokens` (thinned) and `layer-extremes`."""
    model, hook_name = workbench.model, workbench.sae.hook_name
    unaligned = read_text(model, hook_name, unaligned_prompts())
    steering = options.steering or SteeringSettings()
    rows: defaultdict[str, list[pd.DataFrame]] = defaultdict(list)
    for number, topic in enumerate(options.topics):
        progress(f"topics: {topic.title}", number / len(options.topics))
        texts = {ALIGNED: read_text(model, hook_name, topic.prompts), UNALIGNED: unaligned}
        for name, part in _tables(workbench, workbench.score(topic), texts, steering, options.seed):
            rows[name].append(part)
    progress("topics", 1.0)
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in rows.items()}
    summary = tables["layer"]
    means = pd.concat([summary, over_topics(summary)], ignore_index=True)
    return {**tables, "layer": means, "layer-contrasts": contrasts(summary)}
