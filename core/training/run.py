"""Runs whatever a training config asks for: a language model, a sparse autoencoder, or a grid of them."""

import shutil
from pathlib import Path

from core.catalog import DATA
from core.errors import GridError, TrainingConfigError
from core.training.autoencoder_config import read_table
from core.training.language_model_run import Progress


def run_training(config_path: Path, text_folder: Path, work: Path, out: Path | None, progress: Progress) -> Path:
    """Trains by the config's table: `[language_model]`, `[autoencoder]` or `[grid]`; returns the finished folder.

    Args:
        text_folder: what the config's text paths are relative to.
        work: folder of checkpoints; a run that was killed goes on from there.
        out: folder of the result; by default `data/models/NAME` or `data/saes/NAME`. The SAEs of a grid stay in
            `work/saes`, beside the table of results NAME.json, unless `out` is given.

    Raises:
        MissingFileError, PromptFileError: the config or a text of it.
        TrainingConfigError: a wrong table or value.
        GridError: jobs of a grid failed; the others are done.
    """
    table = read_table(config_path)
    if "language_model" in table:
        from core.training.language_model import load_config
        from core.training.language_model_run import run_language_model

        config = load_config(config_path)
        folder = out or DATA / "models" / config.name
        return run_language_model(config, text_folder, work / "models" / config.name, folder, progress)
    if "autoencoder" in table:
        from core.training.autoencoder_config import config_from_table
        from core.training.autoencoders import train_autoencoder

        sae = config_from_table(table["autoencoder"], f"[autoencoder] of '{config_path}'")
        trained = train_autoencoder(sae, text_folder, work / "saes", progress)
        return Path(shutil.copytree(trained, out or DATA / "saes" / sae.name, dirs_exist_ok=True))
    if "grid" in table:
        return _run_grid(config_path, text_folder, work / "saes", out, progress)
    raise TrainingConfigError(
        f"'{config_path}' has none of [language_model], [autoencoder] and [grid]; see data/configs"
    )


def _run_grid(config_path: Path, text_folder: Path, work: Path, out: Path | None, progress: Progress) -> Path:
    from core.training.grid import load_grid
    from core.training.grid_run import run_grid

    results = run_grid(load_grid(config_path), text_folder, work, progress)
    if out is not None:
        for result in results:
            if result.folder is not None:
                shutil.copytree(result.folder, out / result.config.name, dirs_exist_ok=True)
    if failed := [result for result in results if result.error is not None]:
        first = failed[0]
        raise GridError(
            f"{len(failed)} of {len(results)} jobs failed, the others are in '{out or work}'; {first.config.name}: "
            f"{first.error}; run the same command again to retry them"
        )
    return out or work
