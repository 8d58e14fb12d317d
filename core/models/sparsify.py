"""SAE folders of EleutherAI's sparsify: `cfg.json` and `sae.safetensors`.

Its formula: gamma = relu((x - b_dec) W_enc^T + b_enc), of which the k largest are kept; x_sae = a W_dec + b_dec.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from core.errors import AutoencoderError
from core.settings import canonical_hook

WEIGHTS = "sae.safetensors"
_TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def is_sparsify_folder(folder: Path) -> bool:
    return (folder / "cfg.json").is_file() and (folder / WEIGHTS).is_file()


def load_sparsify(folder: Path, hook_name: str | None, device: str) -> dict[str, Any]:
    """The fields of a `SparseAutoencoder` out of a folder, which sparsify names after its module (`layers.6`).

    Raises:
        AutoencoderError: settings that change the formula, a tensor that is missing, or no hook point.
        OSError, ValueError, KeyError: damaged files.
    """
    table: Any = json.loads((folder / "cfg.json").read_text(encoding="utf-8-sig"))
    if not isinstance(table, dict):
        raise AutoencoderError(f"'{folder / 'cfg.json'}' is a table of settings, not a {type(table).__name__}")
    unlike = {"activation": table.get("activation", "topk") != "topk"}
    unlike |= {key: bool(table.get(key)) for key in ("transcode", "skip_connection", "signed")}
    if wrong := [key for key, is_unlike in unlike.items() if is_unlike]:
        raise AutoencoderError(
            f"'{folder}' is of sparsify with {wrong[0]} = {table[wrong[0]]!r}; only plain TopK SAEs of it are read"
        )
    hook = hook_name or canonical_hook(folder.name)
    if not hook.startswith("blocks."):
        raise AutoencoderError(f"'{folder}' does not name its hook point; set hook_name in the setup")
    weights = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS, device=device).items()}
    if missing := [name for name in _TENSORS if name not in weights]:
        raise AutoencoderError(f"'{folder / WEIGHTS}' has no tensor '{missing[0]}'; copy it again")
    return {
        "name": str(folder),
        "architecture": "topk",
        "hook_name": hook,
        "W_enc": weights["encoder.weight"].T.contiguous(),
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"],
        "b_enc": weights["encoder.bias"],
        "k": table.get("k"),
        "apply_b_dec_to_input": True,
        "prepend_bos": False,  # it trains on documents that are joined and cut
    }
