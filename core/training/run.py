"""Runs a training config: a sparse autoencoder, a grid of them, or the classifier of acceptable English."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.catalog import DATA
from core.errors import CheckpointError, GridError, TrainingConfigError
from core.files import written_whole
from core.progress import Progress
from core.results.app_store import AppStore
from core.training.autoencoder_config import read_table

if TYPE_CHECKING:
    from core.training.grid import Grid
    from core.training.grid_run import JobResult

Engine = Literal["local", "ray"]


def run_training(
    config_path: Path,
    text_folder: Path,
    work: Path,
    out: Path | None,
    progress: Progress,
    store: Path | None = None,
    *,
    engine: Engine = "local",
    address: str | None = None,
) -> Path:
    """Trains what the config's table names, `[autoencoder]` for example, and returns the finished folder.

    Args:
        text_folder: folder that the config's text paths are relative to.
        work: folder of checkpoints, from which a killed run continues.
        out: folder of the result; by default `data/models/NAME` or `data/saes/NAME`. The SAEs of a grid stay in
            `work/saes`, beside the table of results NAME.json, unless `out` is given.
        store: store folder in which the figures and loss curves of SAEs are saved, as the results `training` and
            `losses` of the config's name.
        engine: `local` runs a grid's jobs one after another in this process, `ray` runs them in parallel.
        address: of the Ray cluster; see `core.ray_tasks.cluster`.

    Raises:
        MissingFileError, PromptFileError: the config or a text of it.
        TrainingConfigError: a wrong table or value.
        GridError: some jobs of a grid failed; the others have finished.
        CheckpointError: the disk is full or cannot be written; what was saved before is intact.
        EngineError: Ray is not installed, or its cluster cannot be used.
        StoreBusyError, StoreWriteError, StoreDamagedError: the results cannot be saved; told before the work begins.
    """
    table = read_table(config_path)
    if engine == "ray" and "grid" not in table:
        raise TrainingConfigError(
            f"'{config_path}' trains one model; --engine ray runs the jobs of a [grid] side by side: leave it out"
        )
    if "autoencoder" in table:
        from core.training.autoencoder_config import config_from_table
        from core.training.autoencoders import train_autoencoder
        from core.training.grid_run import JobResult

        sae = config_from_table(table["autoencoder"], f"[autoencoder] of '{config_path}'")
        _check_results(store)
        trained = train_autoencoder(sae, text_folder, work / "saes", progress)
        folder = _copied(trained, out or DATA / "saes" / sae.name)
        _save_results(sae.name, [JobResult(sae, trained, None)], store)
        return folder
    if "acceptability" in table:
        from core.training import acceptability

        classifier = acceptability.config_from_table(table["acceptability"], f"[acceptability] of '{config_path}'")
        folder = out or DATA / "models" / classifier.name
        return acceptability.train_acceptability(classifier, text_folder, folder, progress)
    if "grid" in table:
        from core.training.grid import load_grid

        grid = load_grid(config_path)
        _check_results(store)
        results = _grid_results(grid, table.get("ray", {}), text_folder, work / "saes", progress, engine, address)
        return _finish_grid(grid, results, out, work / "saes", store)
    raise TrainingConfigError(
        f"'{config_path}' has none of [autoencoder], [grid] and [acceptability]; see data/configs"
    )


def _grid_results(
    grid: Grid,
    ray_table: dict[str, Any],
    text_folder: Path,
    work: Path,
    progress: Progress,
    engine: Engine,
    address: str | None,
) -> list[JobResult]:
    if engine == "local":
        from core.training.grid_run import run_grid

        return run_grid(grid, text_folder, work, progress)
    from core.training.ray_engine import resources_from_table, run_grid_on_ray

    resources = resources_from_table(ray_table, f"[ray] of {grid.name!r}")
    return run_grid_on_ray(grid, text_folder, work, progress, address=address, resources=resources)


def _finish_grid(grid: Grid, results: list[JobResult], out: Path | None, work: Path, store: Path | None) -> Path:
    if out is not None:
        for result in results:
            if result.folder is not None:
                _copied(result.folder, out / result.config.name)
    _save_results(grid.name, results, store)
    if failed := [result for result in results if result.error is not None]:
        first = failed[0]
        raise GridError(
            f"{len(failed)} of {len(results)} jobs failed, the others are in '{out or work}'; {first.config.name}: "
            f"{first.error}; run the same command again to retry them"
        )
    return out or work


def _copied(sae: Path, target: Path) -> Path:
    """Copies a finished SAE; each file appears only when it is complete.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """

    def copy(source: str, destination: str) -> None:
        with written_whole(Path(destination)) as partial:
            shutil.copyfile(source, partial)

    try:
        return Path(shutil.copytree(sae, target, dirs_exist_ok=True, copy_function=copy))
    except OSError as exc:
        raise CheckpointError(target, sae, exc) from exc


def _check_results(store: Path | None) -> None:
    """Tries, before the work begins, that results can be saved.

    Raises:
        StoreBusyError, StoreWriteError, StoreDamagedError: they cannot.
    """
    if store is not None:
        AppStore(store).check()


def _save_results(name: str, results: list[JobResult], store: Path | None) -> None:
    from core.training.grid_run import losses_table, results_table

    if store is not None:
        app_store = AppStore(store)
        app_store.save_result(name, "training", results_table(results))
        app_store.save_result(name, "losses", losses_table(results))
