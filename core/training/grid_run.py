"""Runs the jobs of a grid one after another; what is finished is skipped, what fails is noted and passed over."""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from core.errors import SteerscopeError
from core.language_model import LanguageModel
from core.training.autoencoder_config import AutoencoderConfig
from core.training.autoencoders import Progress, load_model_to_train_on, train_autoencoder
from core.training.grid import Grid
from core.training.sae_evaluation import EVALUATION_FILE

_ERROR_FILE = "error.txt"
_SETTINGS = ("name", "model", "hook_name", "method", "architecture", "expansion", "seed", "tokens", "sparsity", "k")

TrainOne = Callable[[AutoencoderConfig, Progress], Path]


@dataclass(frozen=True)
class JobResult:
    """What came of one job."""

    config: AutoencoderConfig
    folder: Path | None  # of the SAE
    error: str | None  # one line


class _OneModel:
    """Trains jobs, keeping the language model of the last one: the jobs of a model come in a row."""

    def __init__(self, text_folder: Path, work_folder: Path) -> None:
        self._text_folder, self._work_folder = text_folder, work_folder
        self._key: tuple[str, str, str] | None = None
        self._model: LanguageModel | None = None

    def __call__(self, config: AutoencoderConfig, progress: Progress) -> Path:
        key = (config.model, config.model_dtype, config.device)
        if key != self._key:
            self._model, self._key = None, None  # free the old one first
            self._model, self._key = load_model_to_train_on(config), key
        return train_autoencoder(config, self._text_folder, self._work_folder, progress, self._model)


def run_grid(
    grid: Grid,
    text_folder: Path,
    work_folder: Path,
    progress: Progress = lambda stage, share: None,
    train_one: TrainOne | None = None,
) -> list[JobResult]:
    """Trains every SAE of a grid. A job that fails leaves its error in `work_folder/<job>/error.txt`.

    Args:
        train_one: trains one job instead of `train_autoencoder`.
    """
    train_one = train_one or _OneModel(text_folder, work_folder)
    results = []
    clock = _Clock(len(grid.jobs))
    for number, job in enumerate(grid.jobs):
        title = f"{grid.name}: job {number + 1} of {len(grid.jobs)}, {job.name}"

        def report(_stage: str, share: float, number: int = number, title: str = title) -> None:
            done = (number + share) / len(grid.jobs)
            progress(f"{title}, {clock.left(number + share)}", done)

        finished = (work_folder / job.name / "sae").exists()
        clock.skipped += finished
        report("", 0.0)
        results.append(_attempt(job, work_folder, report, train_one))
        progress(title, (number + 1) / len(grid.jobs))
    results_table(results).to_json(work_folder / f"{grid.name}.json", orient="records", indent=2)
    return results


def _attempt(job: AutoencoderConfig, work_folder: Path, progress: Progress, train_one: TrainOne) -> JobResult:
    note = work_folder / job.name / _ERROR_FILE
    note.unlink(missing_ok=True)
    try:
        return JobResult(job, train_one(job, progress), None)
    except Exception as exc:  # whatever went wrong with this one, the others are still to be trained
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(traceback.format_exc(), encoding="utf-8")
        reason = str(exc) if isinstance(exc, SteerscopeError) else f"{type(exc).__name__}: {exc}"
        return JobResult(job, None, reason.splitlines()[0])


class _Clock:
    """Estimates the time left from the jobs trained so far in this run; those already finished do not count."""

    def __init__(self, n_jobs: int) -> None:
        self._n_jobs, self._started, self.skipped = n_jobs, time.perf_counter(), 0

    def left(self, done: float) -> str:
        """`done`: jobs done, the running one by its share."""
        trained = done - self.skipped
        if trained <= 0.01:
            return "time left unknown yet"
        seconds = (time.perf_counter() - self._started) / trained * (self._n_jobs - done)
        return f"about {seconds / 3600:.1f} h left" if seconds > 5_400 else f"about {seconds / 60:.0f} min left"


def results_table(results: list[JobResult]) -> pd.DataFrame:
    """One row a job: its settings, its figures on held-out text, its folder or its error."""
    return pd.DataFrame([_row(result) for result in results])


def _row(result: JobResult) -> dict[str, Any]:
    row: dict[str, Any] = {key: getattr(result.config, key) for key in _SETTINGS}
    if result.folder is not None:
        figures = json.loads((result.folder / EVALUATION_FILE).read_text(encoding="utf-8"))
        for key, value in figures.items():
            row |= {f"{key}_{part}": v for part, v in value.items()} if isinstance(value, dict) else {key: value}
    return row | {"folder": result.folder and str(result.folder), "error": result.error}


def losses_table(results: list[JobResult]) -> pd.DataFrame:
    """The logged steps of every finished job: name, step, tokens, losses, L0 and dead share."""
    logs = [
        pd.read_json(result.folder.parent / "losses.jsonl", lines=True).assign(name=result.config.name)
        for result in results
        if result.folder is not None
    ]
    return pd.concat(logs, ignore_index=True) if logs else pd.DataFrame(columns=["name", "step", "tokens", "loss"])
