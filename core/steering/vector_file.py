"""A steering vector as a file: safetensors, or the control vector that llama.cpp adds while it generates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import EditError, ExportError
from core.files import written_whole

if TYPE_CHECKING:  # slow to import
    from jaxtyping import Float
    from torch import Tensor

    from core.models.language_model import LanguageModel

VECTOR_SUFFIXES = (".safetensors", ".gguf")
_AFTER_BLOCK = {"hook_resid_post": 0, "hook_resid_pre": -1}  # which block's output a hook point is, from its own


def write_vector(direction: Float[Tensor, "d_in"], hook_name: str, model: LanguageModel, path: Path) -> Path:
    """Writes what is added to every token's activation at a hook point.

    `.safetensors`: one tensor `direction`, float32 [d_in], with the hook point and the model as metadata.
    `.gguf`: a control vector with one tensor `direction.N`, float32 [d_in], which llama.cpp's `--control-vector FILE`
    adds to the output of block N, counted from 0 (https://github.com/ggml-org/llama.cpp, `llama-adapter.cpp`).

    Raises:
        ExportError: another suffix, no such folder, or a disk that is full or not writable.
        EditError: a hook point whose output a control vector cannot reach.
    """
    if path.suffix not in VECTOR_SUFFIXES:
        raise ExportError(f"a vector is written as {' or '.join(VECTOR_SUFFIXES)}, not '{path.name}'")
    if not path.parent.is_dir():
        raise ExportError(f"no folder '{path.parent}' to write '{path.name}' to; create it first")
    kept = direction.detach().float().cpu().contiguous()
    try:
        with written_whole(path) as partial:
            if path.suffix == ".gguf":
                _write_gguf(kept, hook_name, model, partial)
            else:
                _write_safetensors(kept, hook_name, model, partial)
    except OSError as exc:
        raise ExportError(f"cannot write '{path}': {exc.strerror}; choose another place") from exc
    return path


def _write_safetensors(direction: Tensor, hook_name: str, model: LanguageModel, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"direction": direction}, path, metadata={"hook_name": hook_name, "model": model.name})


def _write_gguf(direction: Tensor, hook_name: str, model: LanguageModel, path: Path) -> None:
    from gguf import GGUFWriter

    block = control_block(hook_name)
    writer = GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", model.model.config.get_text_config().model_type)
    writer.add_uint32("controlvector.layer_count", 1)
    writer.add_tensor(f"direction.{block}", direction.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def control_block(hook_name: str) -> int:
    """The block, from 0, to whose output llama.cpp adds the direction of a hook point.

    Raises:
        EditError: the hook point is no output of a block, or of block 0, which llama.cpp leaves alone.
    """
    found = re.fullmatch(r"blocks\.(\d+)\.(\w+)", hook_name)
    if found is None or found[2] not in _AFTER_BLOCK:
        raise EditError(f"a control vector is added to a block's output, and '{hook_name}' is none; use .safetensors")
    block = int(found[1]) + _AFTER_BLOCK[found[2]]
    if block < 1:
        raise EditError(f"llama.cpp adds control vectors from block 1 on, and '{hook_name}' is earlier")
    return block


def has_control_block(hook_name: str) -> bool:
    """Whether a llama.cpp control vector can stand for an edit at this hook point."""
    try:
        control_block(hook_name)
    except EditError:
        return False
    return True
