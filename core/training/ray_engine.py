"""Runs the jobs of a grid as Ray tasks, as many in parallel as fit on the cluster.

The machines share the working folder and the work folder. Progress is therefore read from the jobs' logs, a job can
continue from its checkpoint on any machine, and results are collected as after a local run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.errors import TrainingConfigError
from core.progress import Progress
from core.ray_tasks import Outcome, Resources, cluster, run_tasks, seen_here
from core.training.autoencoder_config import AutoencoderConfig
from core.training.grid import Grid
from core.training.grid_run import (
    LOSSES_FILE,
    Clock,
    JobResult,
    OneModel,
    TrainOne,
    attempt,
    failed,
    is_finished,
    write_results,
)
from core.training.sae_evaluation import EVALUATION_FILE
from core.validated import from_table

_LAST_BYTES = 4_096  # read from the end of a log; longer than its last row


def resources_from_table(table: Mapping[str, Any], where: str) -> Resources:
    """The resources of a job, from the `[ray]` table of a grid's file: `cpus` and `gpus`, both optional.

    Raises:
        TrainingConfigError: another key, or a value that is no number above 0 (gpus: 0 or above).
    """
    return from_table(Resources, table, where, TrainingConfigError)


def run_grid_on_ray(
    grid: Grid,
    text_folder: Path,
    work_folder: Path,
    progress: Progress = lambda stage, share: None,
    train_one: TrainOne | None = None,
    *,
    address: str | None = None,
    resources: Resources | None = None,
) -> list[JobResult]:
    """Trains every SAE of a grid in parallel; the results equal those of `grid_run.run_grid`.

    A job that fails, or whose process dies, leaves its error in `work_folder/<job>/error.txt`.

    Args:
        train_one: trains one job instead of `train_autoencoder`; it is sent to the workers.
        address: see `core.ray_tasks.cluster`.

    Raises:
        EngineError: no cluster answers, or it has no room for a single job.
        GridError: the table of results cannot be written.
    """
    train_one = train_one or OneModel(text_folder, work_folder)
    results = {job.name: attempt(job, work_folder, train_one) for job in grid.jobs if is_finished(job, work_folder)}
    waiting = [job for job in grid.jobs if job.name not in results]
    if waiting:
        progress(f"{grid.name}: connecting to Ray", len(results) / len(grid.jobs))
        with cluster(address):
            outcomes = run_tasks(
                attempt,
                [(job, work_folder, train_one) for job in waiting],
                resources or Resources(),
                _watcher(grid, waiting, work_folder, progress),
            )
        for job, outcome in zip(waiting, outcomes, strict=True):
            results[job.name] = _collected(job, work_folder, outcome)
    in_order = [results[job.name] for job in grid.jobs]
    write_results(grid, in_order, work_folder)
    return in_order


def _watcher(
    grid: Grid, waiting: list[AutoencoderConfig], work_folder: Path, progress: Progress
) -> Callable[[set[int]], None]:
    """Reports the grid's progress and the estimated time left, from the jobs' logs."""
    n_jobs, clock = len(grid.jobs), Clock(len(grid.jobs))
    finished = n_jobs - len(waiting)
    clock.skipped = finished + sum(_share_trained(job, work_folder) for job in waiting)

    def watch(ended: set[int]) -> None:
        running = sum(_share_trained(job, work_folder) for i, job in enumerate(waiting) if i not in ended)
        done = finished + len(ended)
        title = f"{grid.name}: {done} of {n_jobs} jobs done"
        left = f", {clock.left(done + running)}" if done < n_jobs else ""
        progress(title + left, (done + running) / n_jobs)

    return watch


def _share_trained(job: AutoencoderConfig, work_folder: Path) -> float:
    """Share of a job that is done according to its log, 0 to 1."""
    try:
        with (work_folder / job.name / LOSSES_FILE).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LAST_BYTES))
            rows = log.read().splitlines(keepends=True)
    except OSError:  # not started, or being rewritten
        return 0.0
    whole = [row for row in rows if row.startswith(b"{") and row.endswith(b"\n")]
    return float(json.loads(whole[-1])["step"]) / job.steps if whole else 0.0


def _collected(job: AutoencoderConfig, work_folder: Path, outcome: Outcome[JobResult]) -> JobResult:
    """A job's result, with paths as this machine sees them."""
    result = outcome.value
    if result is None:
        return failed(job, work_folder, outcome.error or "", outcome.details)
    folder = result.folder
    if folder is not None and not seen_here((folder / EVALUATION_FILE).is_file):
        error = f"it was trained, but '{folder}' is not on this machine: share the work folder"
        return failed(job, work_folder, error, error)
    return result
