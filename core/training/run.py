"""Runs whatever a training config asks for: a language model, or sparse autoencoders."""

import shutil
from pathlib import Path

from core.catalog import DATA
from core.errors import TrainingConfigError
from core.training.autoencoder_config import read_table
from core.training.language_model_run import Progress


def run_training(config_path: Path, text_folder: Path, work: Path, out: Path | None, progress: Progress) -> Path:
    """Trains by the config's table: `[language_model]` or `[autoencoder]`; returns the finished folder.

    Args:
        text_folder: what the config's text paths are relative to.
        work: folder of checkpoints; a run that was killed goes on from there.
        out: folder of the result; by default `data/models/NAME` or `data/saes/NAME`.

    Raises:
        MissingFileError, PromptFileError: the config or a text of it.
        TrainingConfigError: a wrong table or value.
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
    raise TrainingConfigError(f"'{config_path}' has neither [language_model] nor [autoencoder]; see data/configs")
