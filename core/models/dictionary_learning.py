"""SAE folders of dictionary_learning: `config.json`, and its `ae.pt` converted to `ae.safetensors`.

Its formulas, by `dict_class`; relu(gamma) where nothing else stands:

AutoEncoder             gamma = (x - bias) W_enc + b_enc
AutoEncoderNew          gamma = x W_enc + b_enc
AutoEncoderTopK         gamma = (x - b_dec) W_enc + b_enc, of which the k largest are kept
BatchTopKSAE, Matryoshka...  the same, kept where gamma > threshold
JumpReluAutoEncoder     gamma = x W_enc + b_enc, kept where gamma > threshold; a times the norm of the decoder's row
GatedAutoEncoder        as sae_lens's; a times the norm of the decoder's row
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from core.errors import AutoencoderError
from core.models.sae_folder import WEIGHTS, dictionary_learning_hook, read_config
from core.validated import shown

_ARCHITECTURES = {
    "AutoEncoder": "standard",
    "AutoEncoderNew": "standard",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
    "JumpReluAutoEncoder": "jumprelu",
    "GatedAutoEncoder": "gated",
}
_WITHOUT_INPUT_BIAS = ("AutoEncoderNew", "JumpReluAutoEncoder")
_TIMES_DECODER_NORM = ("JumpReluAutoEncoder", "GatedAutoEncoder")


def load_dictionary_learning(folder: Path, hook_name: str | None, device: str) -> dict[str, Any]:
    """The fields of a `SparseAutoencoder` out of a folder.

    Raises:
        AutoencoderError: a class that is not read, or no hook point.
        OSError, ValueError, KeyError: damaged files, or a tensor that is missing.
    """
    table = read_config(folder, "dictionary_learning")
    trainer = table.get("trainer")
    kind = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or kind not in _ARCHITECTURES:
        raise AutoencoderError(
            f"'{folder}' is of dictionary_learning with dict_class {shown(kind)}; {', '.join(_ARCHITECTURES)} are read"
        )
    hook = hook_name or dictionary_learning_hook(table)
    if hook is None:
        raise AutoencoderError(f"'{folder}' does not name its hook point; set hook_name in the setup")
    w = load_file(folder / WEIGHTS["dictionary_learning"], device=device)
    return {
        "name": str(folder),
        "architecture": _ARCHITECTURES[kind],
        "hook_name": hook,
        "k": trainer.get("k") if _ARCHITECTURES[kind] == "topk" else None,
        "apply_b_dec_to_input": kind not in _WITHOUT_INPUT_BIAS,
        **_weights(kind, w),
    }


def _weights(kind: str, w: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by sae_lens's names and shapes; norms of the decoder's rows are folded into them."""
    W_enc = (w["W_enc"] if "W_enc" in w else w["encoder.weight"].T).float()
    W_dec = (w["W_dec"] if "W_dec" in w else w["decoder.weight"].T).float()
    b_dec = _first(w, "b_dec", "bias", "decoder_bias", "decoder.bias")
    norm = W_dec.norm(dim=-1) if kind in _TIMES_DECODER_NORM else torch.ones_like(W_dec[:, 0])
    found = {"W_dec": (W_dec / norm[:, None]).contiguous(), "b_dec": b_dec}
    if kind == "GatedAutoEncoder":
        magnitude = w["r_mag"].float().exp() * norm
        gated = {"W_mag": W_enc * magnitude, "b_mag": w["mag_bias"].float() * norm, "b_enc": w["gate_bias"].float()}
        return {**found, **gated, "W_enc": W_enc.contiguous()}
    found |= {"W_enc": (W_enc * norm).contiguous(), "b_enc": _first(w, "b_enc", "encoder.bias") * norm}
    if _ARCHITECTURES[kind] == "jumprelu":
        found["threshold"] = w["threshold"].float() * norm  # one for all of a BatchTopK SAE
    return found


def _first(w: dict[str, Tensor], *names: str) -> Tensor:
    """The tensor of the first of these names that there is."""
    return w[next((name for name in names if name in w), names[0])].float()
