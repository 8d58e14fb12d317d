"""What a language model's folder or file tells without being loaded. No deep-learning library is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.catalog import gguf_of
from core.errors import ModelFolderError, UnsafeWeightsError, in_one_line
from core.models.gguf import gguf_sizes

_WIDTHS, _DEPTHS = ("hidden_size", "n_embd", "d_model"), ("num_hidden_layers", "n_layer", "num_layers")


@dataclass(frozen=True)
class ModelSizes:
    """Width of the residual stream, and number of blocks."""

    d_model: int
    n_layers: int


def check_model_folder(folder: Path) -> None:
    """Checks that a folder holds a config, a tokenizer and safetensors.

    Raises:
        ModelFolderError: the config or the tokenizer is missing.
        UnsafeWeightsError: the folder has only pickled weights, or none.
    """
    if not (folder / "config.json").is_file():
        raise ModelFolderError(f"'{folder}' is not a model folder: it has no config.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        raise ModelFolderError(f"'{folder}' has no tokenizer (tokenizer.json); save the tokenizer beside the weights")
    if not any(folder.glob("*.safetensors")):
        raise UnsafeWeightsError(str(folder))


def local_sizes(model: str) -> ModelSizes | None:
    """The sizes of a model whose folder, GGUF file or cached config is on this machine; None where nothing tells them.

    Raises:
        ModelFolderError, UnsafeWeightsError: the folder or the file cannot be a model.
    """
    if (file := gguf_of(model)) is not None:
        return ModelSizes(*gguf_sizes(file))
    if Path(model).is_dir():
        check_model_folder(Path(model))
        return _sizes(Path(model) / "config.json")
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model, "config.json")
    return _sizes(Path(cached)) if isinstance(cached, str) else None


def _sizes(path: Path) -> ModelSizes | None:
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as exc:
        raise ModelFolderError(f"cannot read '{path}' ({in_one_line(exc)}); copy the folder again") from exc
    if not isinstance(config, dict):
        raise ModelFolderError(f"'{path}' is a table of settings, not a {type(config).__name__}; copy the folder again")
    if isinstance(text := config.get("text_config"), dict):  # of a model that takes images, too
        config = text
    width, depth = (
        next((value for key in keys if type(value := config.get(key)) is int), None) for keys in (_WIDTHS, _DEPTHS)
    )
    return None if width is None or depth is None else ModelSizes(width, depth)
