"""Measures a finished SAE again on the held-out text of its config, and rewrites its figures and card."""

import json
from dataclasses import replace
from pathlib import Path

from core.errors import MissingFileError, TrainingConfigError
from core.progress import Progress
from core.training.autoencoder_config import AutoencoderConfig, config_from_table, read_table
from core.training.autoencoders import SETTINGS_FILE, load_model_to_train_on
from core.training.grid import load_grid
from core.training.sae_card import write_card
from core.training.sae_evaluation import evaluate_autoencoder, load_trained
from core.training.training_text import held_out_text, token_batches


def jobs_of(config_path: Path) -> tuple[AutoencoderConfig, ...]:
    """The SAEs that a config trains.

    Raises:
        MissingFileError, TrainingConfigError: no such file, a wrong table or value, or no SAE in it.
    """
    table = read_table(config_path)
    if "autoencoder" in table:
        return (config_from_table(table["autoencoder"], f"[autoencoder] of '{config_path}'"),)
    return load_grid(config_path).jobs


def measure_again(
    config_path: Path, sae_folder: Path, text_folder: Path, work: Path, progress: Progress = lambda stage, share: None
) -> Path:
    """Evaluates the SAE in `sae_folder`, which the config trained, and rewrites `evaluation.json` and the card.

    Raises:
        MissingFileError, TrainingConfigError: the folder is none that training wrote, or of another config.
        PromptFileError, EmptyDatasetError, ConversationError: the texts cannot be used.
    """
    settings = sae_folder / SETTINGS_FILE
    if not settings.is_file():
        raise MissingFileError(settings, "name the folder of an SAE that `core train` wrote")
    name = json.loads(settings.read_text(encoding="utf-8"))["name"]
    config = next((job for job in jobs_of(config_path) if job.name == name), None)
    if config is None:
        raise TrainingConfigError(f"'{config_path}' trains no SAE {name!r}, which is in '{sae_folder}'")
    model = load_model_to_train_on(config)
    config = replace(config, device=str(model.device))
    texts = work / "texts"
    held_out = held_out_text(config, model, text_folder, texts, None)
    sae = load_trained(sae_folder, model.device)
    evaluation = evaluate_autoencoder(sae, model, held_out, progress)
    trained_on = token_batches(config, model, text_folder, texts).describe()
    write_card(sae_folder, config, evaluation, sae.d_in, trained_on)
    return sae_folder
