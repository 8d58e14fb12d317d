"""What to tell of a training whose numbers are none any more: the setting most likely wrong, and what is kept."""

from pathlib import Path

import torch

from core.errors import DivergedError
from core.training.autoencoder_config import AutoencoderConfig
from core.training.checkpoints import latest_checkpoint

_USUAL_LR, _USUAL_SPARSITY, _USUAL_BANDWIDTH = 1e-2, 1e3, 1e-4  # beyond these a setting is suspect


def diverged(config: AutoencoderConfig, folder: Path, what: str, activations: torch.Tensor) -> DivergedError:
    """The error of a run in `folder` that cannot go on.

    Args:
        what: what is no number.
        activations: those of the step.
    """
    if not bool(activations.isfinite().all()):
        suspect = f"model_dtype ({config.model_dtype}), as the model's own activations overflow,"
    elif config.architecture == "jumprelu" and config.bandwidth < _USUAL_BANDWIDTH:
        suspect = f"bandwidth ({config.bandwidth:g})"
    elif config.lr <= _USUAL_LR and config.sparsity > _USUAL_SPARSITY:
        suspect = f"sparsity ({config.sparsity:g})"
    else:
        suspect = f"lr ({config.lr:g})"
    checkpoint = latest_checkpoint(folder / "checkpoints")
    kept = f"'{checkpoint}' is the last good one" if checkpoint else "there was no checkpoint yet"
    anew = f"change it, and give the config another name, or delete '{folder}' to start anew"
    return DivergedError(f"{config.name} stopped training, as {what}", suspect, f"{kept}; {anew}")
