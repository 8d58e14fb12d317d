"""Checkpoints of SAE training: SAE, optimiser, schedulers, mixing buffer and position in the data.

A checkpoint is a folder, written as `.partial` and renamed when it is complete; only then is the previous one removed.
A run that is killed or finds the disk full therefore continues from the last complete checkpoint.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from core.errors import CheckpointError, TrainingConfigError
from core.training.activation_source import ActivationSource
from core.training.autoencoder_config import AutoencoderConfig
from core.training.mixing_buffer import MixingBuffer

_PREFIX = "step-"


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(_PREFIX))


def latest_checkpoint(folder: Path) -> Path | None:
    """The latest complete checkpoint in a folder of checkpoints; None if there is none."""
    return max((p for p in folder.glob(f"{_PREFIX}*") if p.name[len(_PREFIX) :].isdigit()), key=_step, default=None)


def save_checkpoint(
    folder: Path, config: AutoencoderConfig, trainer: Any, buffer: MixingBuffer, source: ActivationSource
) -> Path:
    """Saves the state after the trainer's last step, then removes older checkpoints.

    Raises:
        CheckpointError: the disk is full or cannot be written; the earlier checkpoint is intact.
    """
    whole = folder / f"{_PREFIX}{trainer.n_training_steps}"
    partial = folder / "checkpoint.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_state(trainer.sae), partial / "sae.safetensors")
        save_file(buffer.state_dict(), partial / "buffer.safetensors")
        trainer.save_trainer_state(partial)
        position = {"batch": source.position, "config": config.as_dict()}
        (partial / "position.json").write_text(json.dumps(position), encoding="utf-8")
        os.replace(partial, whole)
    except (OSError, RuntimeError, SafetensorError) as exc:  # a full disk, as json, torch and safetensors report it
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(folder, latest_checkpoint(folder), exc) from exc
    for older in folder.glob(f"{_PREFIX}*"):
        if older != whole:
            shutil.rmtree(older)
    return whole


def load_checkpoint(
    checkpoint: Path, config: AutoencoderConfig, trainer: Any, buffer: MixingBuffer, source: ActivationSource
) -> None:
    """Restores the trainer, its SAE, the buffer and the source from a checkpoint.

    Raises:
        TrainingConfigError: the checkpoint belongs to a run with other settings, or to a model of another width.
    """
    position = json.loads((checkpoint / "position.json").read_text(encoding="utf-8"))
    check_same_settings(position["config"], config, checkpoint.parent.parent)
    state = load_file(checkpoint / "sae.safetensors")
    if (trained_on := state["W_dec"].shape[1]) != trainer.sae.cfg.d_in:
        raise TrainingConfigError(
            f"'{checkpoint}' was trained on {trained_on} dimensions at {config.hook_name}, where '{config.model}' now "
            f"has {trainer.sae.cfg.d_in}; restore the model, or delete '{checkpoint.parent.parent}' to start anew"
        )
    trainer.sae.load_state_dict(state)
    trainer.load_trainer_state(checkpoint)
    buffer.load_state_dict(load_file(checkpoint / "buffer.safetensors"))
    source.position = position["batch"]


def check_same_settings(earlier: dict[str, Any], config: AutoencoderConfig, folder: Path) -> None:
    """Checks that what `folder` holds was trained with settings that give the same weights.

    Raises:
        TrainingConfigError: a setting differs.
    """
    now = config.identity()
    if differing := sorted(key for key in now if earlier.get(key) != now[key]):
        key = differing[0]
        raise TrainingConfigError(
            f"'{folder}' was trained with another {key} ({earlier.get(key)!r}, now {now[key]!r}); restore it, give the "
            f"config another name, or delete the folder to start anew"
        )


def _state(sae: nn.Module) -> dict[str, Any]:
    return {name: tensor.contiguous() for name, tensor in sae.state_dict().items()}
