"""SAE folders on disk: whose format one is, and what it tells without being loaded. No deep-learning library is needed.

sae_lens             cfg.json, sae_weights.safetensors
sparsify             cfg.json, sae.safetensors
dictionary_learning  config.json, ae.safetensors: its own ae.pt is a pickle, which its own library can convert
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import AutoencoderError, UnsafeWeightsError, in_one_line
from core.models.releases import nearest_releases
from core.settings import canonical_hook
from core.validated import shown

ARCHITECTURES = ("standard", "topk", "abstopk", "jumprelu", "gated")
WITHOUT_PRE_ACTIVATIONS = "matching_pursuit"

Library = Literal["sae_lens", "sparsify", "dictionary_learning"]
_CONFIG: dict[Library, str] = {
    "sae_lens": "cfg.json",
    "sparsify": "cfg.json",
    "dictionary_learning": "config.json",
}
WEIGHTS: dict[Library, str] = {
    "sae_lens": "sae_weights.safetensors",
    "sparsify": "sae.safetensors",
    "dictionary_learning": "ae.safetensors",
}
_CONVERSION = (
    "from dictionary_learning.utils import load_dictionary; from safetensors.torch import save_file; "
    "save_file({{n: t.contiguous() for n, t in load_dictionary({folder!r}, 'cpu')[0].state_dict().items()}}, {file!r})"
)


@dataclass(frozen=True)
class SaeFolder:
    """What an SAE folder tells of itself."""

    library: Library
    d_in: int
    d_sae: int
    hook_name: str | None


def library_of(folder: Path) -> Library:
    """Whose format a folder has.

    Raises:
        AutoencoderError: it is no SAE folder.
        UnsafeWeightsError: its weights are a pickle.
    """
    if not folder.exists() and (near := nearest_releases(str(folder))):
        raise AutoencoderError(
            f"'{folder}' is no folder; an SAE of a hub is written release:id, for example {'; '.join(near)}"
        )
    for library, weights in WEIGHTS.items():
        if (folder / weights).is_file() and (folder / _CONFIG[library]).is_file():
            return library
    if (folder / "ae.pt").is_file():
        file = folder / WEIGHTS["dictionary_learning"]
        code = _CONVERSION.format(folder=str(folder), file=str(file))
        raise UnsafeWeightsError(str(folder), f"dictionary_learning converts its ae.pt: python -c {shlex.quote(code)}")
    if not (folder / "cfg.json").is_file():
        raise AutoencoderError(
            f"'{folder}' is not an SAE folder of sae_lens, sparsify or dictionary_learning: it has no cfg.json"
        )
    check_architecture(folder)
    raise UnsafeWeightsError(str(folder))


def read_config(folder: Path, library: Library) -> dict[str, Any]:
    """The settings in a folder.

    Raises:
        AutoencoderError: they are no table.
        OSError, ValueError: the file cannot be read, or is no JSON.
    """
    path = folder / _CONFIG[library]
    table = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(table, dict):
        raise AutoencoderError(f"'{path}' is a table of settings, not a {type(table).__name__}")
    return table


def check_architecture(folder: Path) -> None:
    """Raises AutoencoderError for an architecture of sae_lens that is not read."""
    architecture = read_config(folder, "sae_lens").get("architecture", ARCHITECTURES[0])
    if architecture not in (*ARCHITECTURES, WITHOUT_PRE_ACTIVATIONS):
        raise AutoencoderError(
            f"'{folder}': architecture {shown(architecture)} is not supported; {', '.join(ARCHITECTURES)} are"
        )


def read_sae_folder(folder: Path) -> SaeFolder:
    """What a folder tells of itself: its sizes from the weights, its hook point from its settings or its name.

    Raises:
        AutoencoderError, UnsafeWeightsError: it is no SAE folder that can be read.
    """
    try:
        library = library_of(folder)
        if library == "sae_lens":
            check_architecture(folder)
        d_in, d_sae = _sizes(folder / WEIGHTS[library])
        hook = _hook_name(folder, library, read_config(folder, library))
    except (AutoencoderError, UnsafeWeightsError):
        raise
    except Exception as exc:  # damaged settings or weights; safetensors has an error class of its own
        raise AutoencoderError(f"cannot read the SAE in '{folder}': {in_one_line(exc)}") from exc
    return SaeFolder(library, d_in, d_sae, hook)


def _sizes(weights: Path) -> tuple[int, int]:
    """(d_in, d_sae), from the shape of the decoder."""
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    if "W_dec" in shapes:
        d_sae, d_in = shapes["W_dec"]
    elif "decoder.weight" in shapes:
        d_in, d_sae = shapes["decoder.weight"]
    else:
        raise AutoencoderError(f"'{weights}' has no decoder (W_dec, or decoder.weight); copy it again")
    return int(d_in), int(d_sae)


def _hook_name(folder: Path, library: Library, table: dict[str, Any]) -> str | None:
    if library == "sparsify":
        hook = canonical_hook(folder.name)
        return hook if hook.startswith("blocks.") else None
    if library == "dictionary_learning":
        return dictionary_learning_hook(table)
    metadata = table.get("metadata")
    named = metadata.get("hook_name") if isinstance(metadata, dict) else None
    named = named or table.get("hook_name") or table.get("hook_point")  # the second and third: before version 6
    return canonical_hook(named) if isinstance(named, str) and named else None


def dictionary_learning_hook(table: dict[str, Any]) -> str | None:
    """The hook point of a dictionary_learning config: a block's output, unless it names another module."""
    trainer = table.get("trainer")
    layer, module = (
        (trainer.get(key) for key in ("layer", "submodule_name")) if isinstance(trainer, dict) else (None,) * 2
    )
    if type(layer) is not int or not (module is None or str(module).startswith("resid_post")):
        return None
    return f"blocks.{layer}.hook_resid_post"
