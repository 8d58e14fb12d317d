"""Alpha sweeps: one neuron amplified, the same questions answered at every alpha (FAST paper, section 6, Eq. 8).

Answers are decoded greedily through the chat template. All alphas of a question share one batch, in which each row has
its own edit. Results are saved after each question, so that a killed sweep can continue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from core.errors import EditError
from core.models.acceptability import ACCEPTED, Acceptability, load_acceptability
from core.models.judge import Judge
from core.progress import Progress
from core.results.app_store import AppStore
from core.settings import GenerationSettings
from core.steering.edits import add_neurons
from core.steering.generated import Generation
from core.steering.generation import Generator, tokenise_prompts
from core.steering.metrics import distinct_n, harmonic_mean, language_switch
from core.steering.placement import DEFAULT_POSITIONS, PlacedEdit
from core.steering.workbench import Workbench
from core.sweep.request import SweepSettings, check_chat, check_neuron, means_table, rows_table, run_key
from core.sweep.windows import mark_collapsed, means_by_alpha

AUTO_ALPHAS = 9
_AUTO_DIGITS = 3  # significant digits

# an extra figure: (questions, answers) -> one value per answer, NaN where it is not defined
Measure = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
MEASURES = ("acceptability", "judge")  # not available unless the caller passes one


def available_measures(judge: Judge | None = None) -> dict[str, Measure]:
    """The measures available on this machine, by name.

    acceptability: 1 where the classifier accepts the answer, else 0.
    judge: harmonic mean of the two ratings, 0 to 2, that the `judge` gives; only where there is one.

    Raises:
        AcceptabilityError, UnsafeWeightsError: a classifier is configured but cannot be loaded.
    """
    found: dict[str, Measure] = {}
    if (classifier := load_acceptability()) is not None:
        found["acceptability"] = partial(_accepted, classifier)
    if judge is not None:
        found["judge"] = partial(_judged, judge)
    return found


def _accepted(classifier: Acceptability, _questions: Sequence[str], answers: Sequence[str]) -> Sequence[float]:
    return [math.nan if math.isnan(p) else float(p >= ACCEPTED) for p in classifier.probabilities(answers)]


def _judged(judge: Judge, questions: Sequence[str], answers: Sequence[str]) -> Sequence[float]:
    ratings = judge.rate_answers(list(zip(questions, answers, strict=True)))
    return [harmonic_mean(rating.instruction, rating.fluency) for rating in ratings]


# ---- alphas ----


def mean_residual_norm(workbench: Workbench, questions: Sequence[str]) -> float:
    """Mean Euclidean norm of the activation at the hook point over the questions' own tokens.

    Template tokens are left out, because the first token of a text has a norm many times that of the others.
    """
    model = workbench.model
    norms = []
    for question in questions:
        tokens = model.pad([model.tokenise(question, chat=True)])
        norms.append(model.activations(tokens, workbench.sae.hook_name)[~tokens.special].float().norm(dim=-1))
    return float(torch.cat(norms).mean())


def auto_alphas(mean_norm: float, row_norm: float) -> tuple[float, ...]:
    """Evenly spaced alphas from 0 to the one that shifts the residual stream by twice its mean norm.

    Each is rounded to three significant digits.

    Args:
        mean_norm: see `mean_residual_norm`.
        row_norm: Euclidean norm of the neuron's decoder row, multiples of which are added to the residual stream.

    Raises:
        EditError: the decoder row is zero.
    """
    if not row_norm > 0:
        raise EditError("this neuron's decoder row is zero: adding it changes nothing; choose another neuron")
    values = np.linspace(0, 2 * mean_norm / row_norm, AUTO_ALPHAS)
    return tuple(float(f"{value:.{_AUTO_DIGITS}g}") for value in values)


# ---- one question ----


def _placed(workbench: Workbench, neuron: int, alphas: Sequence[float]) -> list[PlacedEdit]:
    """One `add` edit per batch row, each with its own alpha; a row with alpha 0 has no edit."""
    rows = torch.eye(len(alphas), dtype=torch.bool, device=workbench.model.device)
    return [
        PlacedEdit(add_neurons(workbench.sae, {neuron: alpha}), DEFAULT_POSITIONS["add"], rows[row])
        for row, alpha in enumerate(alphas)
        if alpha
    ]


def answers(
    workbench: Workbench, neuron: int, question: str, alphas: Sequence[float], max_new_tokens: int
) -> Generator:
    """A generator of the answers to one question, one batch row per alpha.

    A row whose output overflows ends there and records the `problem`.

    Raises:
        NeuronRangeError: the SAE has no such neuron.
        PromptTooLongError, UsageError: see `tokenise_prompts`.
    """
    check_neuron(neuron, workbench.sae.d_sae)
    settings = GenerationSettings(max_new_tokens=max_new_tokens, greedy=True, chat=True)
    placed = _placed(workbench, neuron, alphas)
    return Generator(workbench.model, [question] * len(alphas), placed, settings, measure=False, keep_going=True)


def answer_rows(
    workbench: Workbench,
    neuron: int,
    question: str,
    alphas: Sequence[float],
    made: Sequence[Generation],
    unsteered: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """One row per answer with its figures, in the order of `alphas`; those of `MEASURES` are left to `measure`.

    An answer whose output overflowed counts as collapsed; if nothing was written, its figures are not defined.

    Args:
        alphas: must include 0, unless the unsteered answer is given; it is the reference for language switch and
            collapse.
        made: the answer at each alpha.
        unsteered: the row of the unsteered answer, where it is known already.
    """
    ids, texts = [generation.ids for generation in made], [generation.text for generation in made]
    usual = f"{question}\n{texts[list(alphas).index(0.0)] if unsteered is None else unsteered['text']}"
    known = pd.DataFrame(workbench.figures(made, None))[["perplexity", "distinct_2", "repetition", "n_tokens"]]
    table = known.assign(
        alpha=alphas,
        text=texts,
        overflow=[bool(generation.problem) for generation in made],
        distinct_3=[distinct_n(written, 3) for written in ids],
        language_switch=[language_switch(text, usual) for text in texts],
        confidence=[generation.confidence for generation in made],
    )
    table = table.assign(**dict.fromkeys(MEASURES, math.nan))
    known_too = table if unsteered is None else pd.concat([table, pd.DataFrame([unsteered])], ignore_index=True)
    collapsed = mark_collapsed(known_too).iloc[: len(table)].astype(bool)
    return table.assign(collapsed=collapsed, neuron=neuron, question_text=question)


def measure(rows: pd.DataFrame, question: int, measures: Mapping[str, Measure]) -> Iterator[str]:
    """Fills in what is missing of the measures of one question's answers; yields the name of each that it filled in."""
    written = (rows["question"] == question) & (rows["text"].str.strip() != "")
    for name, figure in measures.items():
        due = written & rows[name].isna()
        if due.any():
            rows.loc[due, name] = list(figure(rows.loc[due, "question_text"].tolist(), rows.loc[due, "text"].tolist()))
            yield name


# ---- a sweep ----


def _unfinished(results: AppStore, setup: str, neuron: int, key: str) -> pd.DataFrame | None:
    """The rows saved by an earlier run of the same sweep; None if there are none."""
    rows = results.result(setup, rows_table(neuron))
    return rows if rows is not None and set(rows["run"]) == {key} else None


def sweep_alphas(workbench: Workbench, neuron: int, settings: SweepSettings, mean_norm: float) -> tuple[float, ...]:
    """The alphas of the settings, or for `auto` those computed for this neuron."""
    if settings.alphas is not None:
        return settings.alphas
    return auto_alphas(mean_norm, float(workbench.sae.W_dec[neuron].float().norm()))


def run_sweep(
    workbench: Workbench,
    neuron: int,
    settings: SweepSettings,
    results: AppStore,
    setup: str,
    *,
    resume: bool = True,
    measures: Mapping[str, Measure] | None = None,
    progress: Progress = lambda stage, share: None,
) -> pd.DataFrame:
    """Answers every question at every alpha, and saves the rows and the means per alpha after each question.

    A stopped or killed run of the same sweep (setup, neuron, alphas, questions, tokens) continues where it left off; of
    answers that are there, only measures that are missing are taken. The saved rows of a sweep with other settings are
    replaced.

    Args:
        resume: False starts again from the first question.
        measures: extra figures by name, out of `MEASURES`.
        progress: called after each question, once it is saved.

    Returns:
        The rows of all answers.

    Raises:
        ChatSetupError: the setup's model answers without a chat template.
        NeuronRangeError: the SAE has no such neuron.
        PromptTooLongError, UsageError: a question cannot be asked; checked before anything is generated.
        JudgeError: a measure asks a judge that does not answer; the answers are saved.
        StoreBusyError, StoreWriteError, StoreDamagedError: see `AppStore`.
    """
    check_chat(workbench.model.has_template, "an alpha sweep")
    check_neuron(neuron, workbench.sae.d_sae)
    generation = GenerationSettings(max_new_tokens=settings.max_new_tokens, chat=True)
    tokenise_prompts(workbench.model, settings.questions, generation)  # a question that is too long fails here
    mean_norm = mean_residual_norm(workbench, settings.questions)
    alphas = sweep_alphas(workbench, neuron, settings, mean_norm)
    key = run_key(workbench.store.meta["fingerprint"], neuron, alphas, settings)
    rows = _unfinished(results, setup, neuron, key) if resume else None
    row_norm = float(workbench.sae.W_dec[neuron].float().norm())
    done = set() if rows is None else set(rows["question"])
    for number, question in enumerate(settings.questions, start=1):
        if fresh := number not in done:
            made = answers(workbench, neuron, question, alphas, settings.max_new_tokens).finish()
            table = answer_rows(workbench, neuron, question, alphas, made)
            table = table.assign(question=number, n_questions=len(settings.questions), run=key)
            table["shift"] = table["alpha"] * row_norm / mean_norm  # in units of the residual stream's mean norm
            rows = table if rows is None else pd.concat([rows, table], ignore_index=True)
        assert rows is not None  # this question's are among them
        try:
            for _ in measure(rows, number, measures or {}):
                fresh = True
        finally:  # where a judge gave up, the answers are kept all the same
            if fresh:
                results.save_result(setup, rows_table(neuron), rows)
                results.save_result(setup, means_table(neuron), means_by_alpha(rows).assign(run=key))
        progress(f"neuron {neuron}", number / len(settings.questions))
    assert rows is not None  # there is at least one question
    return rows
