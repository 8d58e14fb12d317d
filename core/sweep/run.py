"""Alpha sweeps: one neuron amplified, the same questions answered at every alpha (FAST paper, section 6, Eq. 8).

Greedy decoding through the chat template; all alphas of a question share a batch, each row with an edit of its own.
What is done is kept question by question, so that a killed sweep continues.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from core.errors import EditError
from core.models.acceptability import ACCEPTED, load_acceptability
from core.progress import Progress
from core.results.app_store import AppStore
from core.settings import GenerationSettings
from core.steering.edits import add_neurons
from core.steering.generation import Generation, Generator, tokenise_prompts
from core.steering.metrics import distinct_n, language_switch, next_token_confidence
from core.steering.placement import DEFAULT_POSITIONS, PlacedEdit
from core.steering.workbench import Workbench
from core.sweep.request import SweepSettings, check_chat, check_neuron, means_table, rows_table, run_key
from core.sweep.windows import mark_collapsed, means_by_alpha

AUTO_ALPHAS = 9
_AUTO_DIGITS = 3  # significant ones

# a further figure of answers, NaN where it has none: (questions, answers) -> one value each
Measure = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
MEASURES = ("acceptability", "judge")  # n/a unless the caller brings one


def available_measures() -> dict[str, Measure]:
    """The measures that this machine has: acceptability, 1 where its classifier accepts the answer, else 0.

    Raises:
        AcceptabilityError, UnsafeWeightsError: a classifier is named and cannot be loaded.
    """
    classifier = load_acceptability()
    if classifier is None:
        return {}

    def accepted(_questions: Sequence[str], answers: Sequence[str]) -> Sequence[float]:
        return [math.nan if math.isnan(p) else float(p >= ACCEPTED) for p in classifier.probabilities(answers)]

    return {"acceptability": accepted}


# ---- alphas ----


def mean_residual_norm(workbench: Workbench, questions: Sequence[str]) -> float:
    """Mean Euclidean norm of the activation at the hook point over the questions' own tokens.

    Template tokens are left out: the first one of a text has a norm many times that of the others.
    """
    model = workbench.model
    norms = []
    for question in questions:
        tokens = model.pad([model.tokenise(question)])
        norms.append(model.activations(tokens, workbench.sae.hook_name)[~tokens.special].float().norm(dim=-1))
    return float(torch.cat(norms).mean())


def auto_alphas(mean_norm: float, row_norm: float) -> tuple[float, ...]:
    """Evenly spaced alphas that shift the residual stream by 0 to twice its mean norm, of three significant digits.

    Args:
        row_norm: of the neuron's decoder row, whose multiples are added.

    Raises:
        EditError: the row is zero.
    """
    if not row_norm > 0:
        raise EditError("this neuron's decoder row is zero: adding it changes nothing; choose another neuron")
    values = np.linspace(0, 2 * mean_norm / row_norm, AUTO_ALPHAS)
    return tuple(float(f"{value:.{_AUTO_DIGITS}g}") for value in values)


# ---- one question ----


def _placed(workbench: Workbench, neuron: int, alphas: Sequence[float]) -> list[PlacedEdit]:
    """`add` on each row of a batch with its own alpha; a row of alpha 0 is left untouched."""
    rows = torch.eye(len(alphas), dtype=torch.bool, device=workbench.model.device)
    return [
        PlacedEdit(add_neurons(workbench.sae, {neuron: alpha}), DEFAULT_POSITIONS["add"], rows[row])
        for row, alpha in enumerate(alphas)
        if alpha
    ]


def answers(
    workbench: Workbench, neuron: int, question: str, alphas: Sequence[float], max_new_tokens: int
) -> Generator:
    """The question answered under every alpha, a row each, in one batch; ready to stream.

    A row whose output overflows ends there, with its `problem`.

    Raises:
        NeuronRangeError: the SAE has no such neuron.
        PromptTooLongError, UsageError: see `tokenise_prompts`.
    """
    check_neuron(neuron, workbench.sae.d_sae)
    settings = GenerationSettings(max_new_tokens=max_new_tokens, greedy=True)
    placed = _placed(workbench, neuron, alphas)
    return Generator(workbench.model, [question] * len(alphas), placed, settings, measure=False, keep_going=True)


def answer_rows(
    workbench: Workbench,
    neuron: int,
    question: str,
    alphas: Sequence[float],
    made: Sequence[Generation],
    measures: Mapping[str, Measure] | None = None,
) -> pd.DataFrame:
    """A row an answer with its figures; one that overflowed counts as collapsed, and has none if nothing was written.

    Args:
        alphas: in order, 0 among them: the unsteered answer says what language is usual and what has collapsed.
        measures: further figures, by names of `MEASURES`.
    """
    ids, texts = [generation.ids for generation in made], [generation.text for generation in made]
    usual = f"{question}\n{texts[list(alphas).index(0.0)]}"
    known = pd.DataFrame(workbench.figures(made, None))[["perplexity", "distinct_2", "repetition", "n_tokens"]]
    table = known.assign(
        alpha=alphas,
        text=texts,
        overflow=[bool(generation.problem) for generation in made],
        distinct_3=[distinct_n(written, 3) for written in ids],
        language_switch=[language_switch(text, usual) for text in texts],
        confidence=next_token_confidence(
            workbench.model, [g.prompt_tokens for g in made], ids, _placed(workbench, neuron, alphas)
        ),
    )
    written = table["text"].str.strip() != ""
    for name in MEASURES:
        table[name] = math.nan
        if (measure := (measures or {}).get(name)) and written.any():
            table.loc[written, name] = measure([question] * int(written.sum()), table.loc[written, "text"].tolist())
    return table.assign(collapsed=mark_collapsed(table), neuron=neuron, question_text=question)


# ---- a sweep ----


def _unfinished(results: AppStore, setup: str, neuron: int, key: str) -> pd.DataFrame | None:
    """The rows that an earlier run of the same sweep left; None where there are none."""
    rows = results.result(setup, rows_table(neuron))
    return rows if rows is not None and set(rows["run"]) == {key} else None


def sweep_alphas(workbench: Workbench, neuron: int, settings: SweepSettings, mean_norm: float) -> tuple[float, ...]:
    """The alphas of the settings, or what `auto` comes to for this neuron."""
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
    """Every question at every alpha; saves the rows and the means by alpha after each question, and returns the rows.

    Continues where a stopped or killed run of the same sweep (setup, neuron, alphas, questions, tokens) left off; one
    with other alphas, questions or tokens is replaced.

    Args:
        resume: False begins anew.
        progress: told after each question, when it is saved.

    Raises:
        ChatSetupError: the setup's model answers without a chat template.
        NeuronRangeError: the SAE has no such neuron.
        PromptTooLongError, UsageError: a question that cannot be asked; nothing has been run then.
        StoreBusyError, StoreWriteError, StoreDamagedError: see `AppStore`.
    """
    check_chat(workbench.model.chat, "an alpha sweep")
    check_neuron(neuron, workbench.sae.d_sae)
    generation = GenerationSettings(max_new_tokens=settings.max_new_tokens)
    tokenise_prompts(workbench.model, settings.questions, generation)  # a question too long ends it here
    mean_norm = mean_residual_norm(workbench, settings.questions)
    alphas = sweep_alphas(workbench, neuron, settings, mean_norm)
    key = run_key(workbench.store.meta["fingerprint"], neuron, alphas, settings)
    rows = _unfinished(results, setup, neuron, key) if resume else None
    row_norm = float(workbench.sae.W_dec[neuron].float().norm())
    done = set() if rows is None else set(rows["question"])
    for number, question in enumerate(settings.questions, start=1):
        if number not in done:
            made = answers(workbench, neuron, question, alphas, settings.max_new_tokens).finish()
            table = answer_rows(workbench, neuron, question, alphas, made, measures)
            table = table.assign(question=number, n_questions=len(settings.questions), run=key)
            table["shift"] = table["alpha"] * row_norm / mean_norm  # of the residual stream, in its mean norms
            rows = table if rows is None else pd.concat([rows, table], ignore_index=True)
            results.save_result(setup, rows_table(neuron), rows)
            results.save_result(setup, means_table(neuron), means_by_alpha(rows).assign(run=key))
        progress(f"neuron {neuron}", number / len(settings.questions))
    assert rows is not None  # there is a question
    return rows
