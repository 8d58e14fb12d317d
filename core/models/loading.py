"""Loads a setup's language model from a folder, a GGUF file, a hub cache, or a hub."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.catalog import Setup, gguf_of
from core.errors import HubError, ModelFolderError, SetupConfigError, in_one_line
from core.models.gguf import dequantised
from core.models.hub import hub_or_cache
from core.models.language_model import LanguageModel
from core.models.model_folder import check_model_folder
from core.progress import Progress


def best_device() -> str:
    """cuda, else mps, else cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _usable_device(name: str) -> str:
    device = best_device() if name == "auto" else name
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as exc:
        raise SetupConfigError(f"device '{device}' is not available on this machine; use 'cpu' or 'auto'") from exc
    return device


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor with NaN or an infinity in it; None if there is none."""
    return next((name for name, tensor in tensors if not bool(tensor.isfinite().all())), None)


def load_language_model(setup: Setup, progress: Progress = lambda stage, share: None) -> LanguageModel:
    """Loads the setup's model from its folder, a GGUF file, a hub cache, or a hub.

    Args:
        progress: called while a GGUF file is dequantised, which happens once.

    Raises:
        ModelFolderError: the folder lacks its config, its tokenizer or some of its weights, or they are damaged; or a
            GGUF file that cannot be read (`core.models.gguf`).
        UnsafeWeightsError: the folder has only pickled weights.
        HubError: the model is neither cached nor can it be downloaded.
        SetupConfigError: this machine does not have the setup's device.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = gguf_of(setup.model)
    place = setup.model if file is None else str(dequantised(file, progress))
    local = Path(place).is_dir()
    if local:
        check_model_folder(Path(place))
    device = _usable_device(setup.device)
    with nullcontext() if local else hub_or_cache() as unreachable:
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=local)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                place,
                dtype=getattr(torch, setup.dtype),
                local_files_only=local,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as exc:  # a config of the wrong shape makes transformers raise whatever its code stumbles over
            if local or not isinstance(exc, OSError):
                raise ModelFolderError(f"cannot load the model in '{setup.model}': {in_one_line(exc)}") from exc
            reason = unreachable or str(exc).splitlines()[0]
            raise HubError(
                f"cannot fetch '{setup.model}' ({reason}); connect, or give a folder as `model` in a setup of your own"
            ) from exc
    model, report = loaded
    if missing := sorted(report["missing_keys"]):  # transformers would initialise them at random
        raise ModelFolderError(
            f"the weights in '{setup.model}' lack {missing[0]} ({len(missing)} tensors in all); copy the folder again"
        )
    module: nn.Module = model
    if (wrong := not_finite(module.named_parameters())) is not None:
        raise ModelFolderError(f"the weights in '{setup.model}' hold NaN or infinity in {wrong}; copy the folder again")
    module.to(device).eval().requires_grad_(False)
    made = LanguageModel(setup.model, model, tokenizer, chat=setup.chat, first_token=setup.first_token)
    made.place = place
    return made
