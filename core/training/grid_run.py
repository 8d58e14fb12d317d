"""Runs the jobs of a grid one after another; finished jobs are skipped, and a failed one does not stop the rest."""

import json
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from core.errors import GridError, in_one_line
from core.files import written_whole
from core.models.language_model import LanguageModel
from core.progress import Progress
from core.training.autoencoder_config import AutoencoderConfig
from core.training.autoencoders import load_model_to_train_on, train_autoencoder
from core.training.grid import Grid
from core.training.sae_evaluation import EVALUATION_FILE
from core.training.shared_activations import SharedActivations
from core.training.training_text import evaluation_config

LOSSES_FILE = "losses.jsonl"  # training log in a job's folder
_SETTINGS = (
    *("name", "model", "hook_name", "method", "architecture"),
    *("expansion", "seed", "tokens", "sparsity", "k"),
)

TrainOne = Callable[[AutoencoderConfig, Progress], Path]


@dataclass(frozen=True)
class JobResult:
    """The result of one training job: the folder of its SAE, or why it failed."""

    config: AutoencoderConfig
    folder: Path | None  # of the SAE
    error: str | None  # one line


class OneModel:
    """Trains jobs, and keeps the last job's language model loaded, as jobs on the same model follow each other."""

    def __init__(
        self,
        text_folder: Path,
        work_folder: Path,
        shared: SharedActivations | None = None,
        shared_held_out: SharedActivations | None = None,
    ) -> None:
        self._text_folder, self._work_folder = text_folder, work_folder
        self._shared, self._shared_held_out = shared, shared_held_out
        self._key: tuple[str, str, str] | None = None
        self._model: LanguageModel | None = None

    def __call__(self, config: AutoencoderConfig, progress: Progress) -> Path:
        key = (config.model, config.model_dtype, config.device)
        if key != self._key and not is_finished(config, self._work_folder):
            self._model, self._key = None, None  # free the old one first
            self._model, self._key = load_model_to_train_on(config), key
        kept = None if self._shared is None else self._shared.of(config)
        held_out = None if self._shared_held_out is None else self._shared_held_out.of(evaluation_config(config))
        return train_autoencoder(config, self._text_folder, self._work_folder, progress, self._model, kept, held_out)


def run_grid(
    grid: Grid,
    text_folder: Path,
    work_folder: Path,
    progress: Progress = lambda stage, share: None,
    train_one: TrainOne | None = None,
) -> list[JobResult]:
    """Trains every SAE of a grid. A job that fails leaves its traceback in `work_folder/<job>/error.txt`.

    Args:
        train_one: trains one job; by default `train_autoencoder`, with shared activations.

    Raises:
        GridError: see `write_results`.
    """
    waiting = [job for job in grid.jobs if not is_finished(job, work_folder)]
    evaluated = [evaluation_config(job) for job in waiting]
    max_bytes = grid.shared_activations_bytes
    with (
        SharedActivations(waiting, work_folder / f"{grid.name}.activations", max_bytes) as shared,
        SharedActivations(evaluated, work_folder / f"{grid.name}.held-out", max_bytes) as held_out,
    ):
        one_model = OneModel(text_folder, work_folder, shared, held_out)
        results = _in_order(grid, work_folder, progress, train_one or one_model)
    write_results(grid, results, work_folder)
    return results


def _in_order(grid: Grid, work_folder: Path, progress: Progress, train_one: TrainOne) -> list[JobResult]:
    results = []
    clock = Clock(len(grid.jobs))
    for number, job in enumerate(grid.jobs):
        title = f"{grid.name}: job {number + 1} of {len(grid.jobs)}, {job.name}"

        def report(_stage: str, share: float, number: int = number, title: str = title) -> None:
            done = (number + share) / len(grid.jobs)
            progress(f"{title}, {clock.left(number + share)}", done)

        clock.skipped += is_finished(job, work_folder)
        report("", 0.0)
        results.append(attempt(job, work_folder, train_one, report))
        progress(title, (number + 1) / len(grid.jobs))
    return results


def is_finished(job: AutoencoderConfig, work_folder: Path) -> bool:
    """Whether an earlier run trained this job to its end."""
    return (work_folder / job.name / "sae").exists()


def attempt(
    job: AutoencoderConfig, work_folder: Path, train_one: TrainOne, progress: Progress = lambda stage, share: None
) -> JobResult:
    """Trains one job; an exception becomes a failed result, so that the other jobs are still trained."""
    with suppress(OSError):
        _note(job, work_folder).unlink(missing_ok=True)
    try:
        return JobResult(job, train_one(job, progress), None)
    except Exception as exc:
        return failed(job, work_folder, in_one_line(exc), traceback.format_exc())


def _note(job: AutoencoderConfig, work_folder: Path) -> Path:
    return work_folder / job.name / "error.txt"


def failed(job: AutoencoderConfig, work_folder: Path, error: str, details: str) -> JobResult:
    """The result of a failed job; `details` are kept in its `error.txt` until the next attempt."""
    note = _note(job, work_folder)
    with suppress(OSError):  # on a full disk the one-line error has to suffice
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(details, encoding="utf-8")
    return JobResult(job, None, error)


def write_results(grid: Grid, results: list[JobResult], work_folder: Path) -> None:
    """Writes the table of results to `work_folder/<grid>.json`.

    Raises:
        GridError: the disk is full or cannot be written.
    """
    path = work_folder / f"{grid.name}.json"
    try:
        with written_whole(path) as partial:
            results_table(results).to_json(partial, orient="records", indent=2)
    except OSError as exc:
        raise GridError(
            f"cannot write '{path}' ({in_one_line(exc)}); the SAEs that are done are intact; free space and run the "
            "same command again"
        ) from exc


class Clock:
    """Estimates the time left from the jobs trained in this run; jobs finished earlier do not count."""

    def __init__(self, n_jobs: int) -> None:
        self._n_jobs, self._started, self.skipped = n_jobs, time.perf_counter(), 0.0

    def left(self, done: float) -> str:
        """The time left in words; `done` counts finished jobs, plus the share done of the running one."""
        trained = done - self.skipped
        if trained <= 0.01:
            return "time left unknown yet"
        seconds = (time.perf_counter() - self._started) / trained * (self._n_jobs - done)
        return f"about {seconds / 3600:.1f} h left" if seconds > 5_400 else f"about {seconds / 60:.0f} min left"


def results_table(results: list[JobResult]) -> pd.DataFrame:
    """One row per job: its settings, its figures on held-out text, and its SAE's folder or its error."""
    return pd.DataFrame([_row(result) for result in results])


def _row(result: JobResult) -> dict[str, Any]:
    row: dict[str, Any] = {key: getattr(result.config, key) for key in _SETTINGS}
    row["method"] = result.config.variant or result.config.method  # a variant is compared as a method of its own
    if result.folder is not None:
        figures = json.loads((result.folder / EVALUATION_FILE).read_text(encoding="utf-8"))
        row["evaluated_tokens"] = figures.pop("tokens")  # the row's `tokens` are those of training
        for key, value in figures.items():
            row |= {f"{key}_{part}": v for part, v in value.items()} if isinstance(value, dict) else {key: value}
    return row | {"folder": result.folder and str(result.folder), "error": result.error}


def losses_table(results: list[JobResult]) -> pd.DataFrame:
    """The training logs of all finished jobs: name, step, tokens, losses, L0 and share of dead neurons."""
    logs = [
        pd.read_json(result.folder.parent / LOSSES_FILE, lines=True).assign(name=result.config.name)
        for result in results
        if result.folder is not None
    ]
    return pd.concat(logs, ignore_index=True) if logs else pd.DataFrame(columns=["name", "step", "tokens", "loss"])
