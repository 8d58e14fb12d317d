"""SAE folders of EleutherAI's sparsify: `cfg.json` and `sae.safetensors`.

Its formula: gamma = relu((x - b_dec) W_enc^T + b_enc), of which the k largest are kept; x_sae = a W_dec + b_dec.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from core.errors import AutoencoderError
from core.models.sae_folder import WEIGHTS, read_config
from core.settings import canonical_hook

_TENSORS = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")


def fetch_sparsify(repository: str, module: str) -> Path:
    """The folder of a repository's SAE in the hub's cache, downloaded where it is not there.

    Raises:
        OSError: the hub does not answer; or one of huggingface_hub's own errors.
    """
    from huggingface_hub import hf_hub_download

    files = [hf_hub_download(repository, f"{module}/{name}") for name in ("cfg.json", WEIGHTS["sparsify"])]
    return Path(files[0]).parent


def load_sparsify(folder: Path, hook_name: str | None, device: str) -> dict[str, Any]:
    """The fields of a `SparseAutoencoder` out of a folder, which sparsify names after its module (`layers.6`).

    Raises:
        AutoencoderError: settings that change the formula, a tensor that is missing, or no hook point.
        OSError, ValueError, KeyError: damaged files.
    """
    table = read_config(folder, "sparsify")
    unlike = {"activation": table.get("activation", "topk") != "topk"}
    unlike |= {key: bool(table.get(key)) for key in ("transcode", "skip_connection", "signed")}
    if wrong := [key for key, is_unlike in unlike.items() if is_unlike]:
        raise AutoencoderError(
            f"'{folder}' is of sparsify with {wrong[0]} = {table[wrong[0]]!r}; only plain TopK SAEs of it are read"
        )
    hook = hook_name or canonical_hook(folder.name)
    if not hook.startswith("blocks."):
        raise AutoencoderError(f"'{folder}' does not name its hook point; set hook_name in the setup")
    path = folder / WEIGHTS["sparsify"]
    weights = {name: tensor.float() for name, tensor in load_file(path, device=device).items()}
    if missing := [name for name in _TENSORS if name not in weights]:
        raise AutoencoderError(f"'{path}' has no tensor '{missing[0]}'; copy it again")
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
