"""Runs experiments so that nothing finished is lost: tables are saved at once, and a stopped run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from core.errors import StoreError
from core.evaluation.experiments import EXPERIMENTS, ExperimentOptions, Unfinished
from core.progress import Progress

if TYPE_CHECKING:  # slow to import
    import pandas as pd

    from core.results.app_store import AppStore
    from core.scoring.scorer import Scorer


def run_key(workbench: Scorer, options: ExperimentOptions, names: Sequence[str]) -> str:
    """Identifies a run of experiments by their names, their settings and the store they read."""
    settings = replace(options, also=(), saved=None, unfinished=None)  # type: ignore[arg-type]
    stores = [bench.store.meta.get("fingerprint") for bench in (workbench, *options.also)]
    return hashlib.sha256(repr([*names, stores, settings]).encode()).hexdigest()[:16]


def run_and_save(
    name: str,
    workbench: Scorer,
    options: ExperimentOptions,
    results: AppStore,
    setup: str,
    progress: Progress = lambda stage, share: None,
) -> dict[str, pd.DataFrame]:
    """Runs an experiment and saves its tables under the setup's name, all when it has finished."""
    results.check()  # what cannot be saved fails now, rather than after the work
    tables = _run(name, workbench, options, results, setup, progress)
    _save(name, tables, results, setup)
    return tables


def _run(
    name: str, workbench: Scorer, options: ExperimentOptions, results: AppStore, setup: str, progress: Progress
) -> dict[str, pd.DataFrame]:
    unfinished = Unfinished(results, setup, name, run_key(workbench, options, [name]))
    own = replace(options, saved=partial(results.result, setup), unfinished=unfinished)
    return EXPERIMENTS[name].run(workbench, own, progress)


def _save(name: str, tables: Mapping[str, pd.DataFrame], results: AppStore, setup: str) -> None:
    for table, frame in tables.items():
        results.save_result(setup, table, frame)
    results.forget(setup, name)


def run_in_turn(
    names: Sequence[str],
    workbench: Scorer,
    options: ExperimentOptions,
    results: AppStore,
    setup: str,
    watched: Callable[[str], AbstractContextManager[Progress]],
) -> Iterator[tuple[str, dict[str, pd.DataFrame], StoreError | None]]:
    """Runs experiments one after another; each is saved when it has finished. A stopped run goes on where it was.

    Args:
        watched: makes the report of progress of an experiment, by its title.

    Yields:
        The name of each experiment, its tables, and why they could not be saved; None where they were.

    Raises:
        StoreBusyError, StoreWriteError, StoreDamagedError: the results cannot be saved; told before the work begins.
    """
    results.check()
    run = Unfinished(results, setup, "evaluate", run_key(workbench, options, names))
    done = {name: table["table"].tolist() for name, table in run.load().items()}
    lost: StoreError | None = None
    for name in names:
        kept = {table: results.result(setup, table) for table in done.get(name, ())}
        if kept and all(frame is not None for frame in kept.values()):
            yield name, cast("dict[str, pd.DataFrame]", kept), None
            continue
        with watched(EXPERIMENTS[name].title) as progress:
            tables = _run(name, workbench, options, results, setup, progress)
        problem = None
        try:
            _save(name, tables, results, setup)
            done[name] = list(tables)
            run.keep({name: _listed(tables) for name, tables in done.items()})
        except StoreError as exc:
            problem = lost = exc
        yield name, tables, problem
    if lost is None:
        run.forget()


def _listed(tables: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"table": tables})
