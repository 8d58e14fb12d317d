"""The SAEs that sae_lens knows by name: its list ships with the package.

The list is read as a file: importing sae_lens for it takes some ten seconds and brings torch.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from core.settings import canonical_hook

# formats of sae_lens that are no SAEs of one hook point: they write elsewhere than they read, or look at several tokens
_NO_SAES = {"gemma_2_transcoder", "mwhanna_transcoder", "mntss_clt_layer_transcoder", "temporal"}
# where the list has a name of TransformerLens, or the wrong model
_HUB_NAMES = {
    "gpt2-small": "gpt2",
    "gemma-2b": "google/gemma-2b",
    "gemma-2b-it": "google/gemma-2b-it",
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "gemma-2-27b": "google/gemma-2-27b",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
}
_MODELS = {"gemma-scope-9b-it-res": "google/gemma-2-9b-it"}  # by release
_KINDS = (  # of a hook point, by what names of repositories, folders and ids hold
    (r"blocks\.\d+\.hook_z|gemma-scope\S*-att|attn_out\S* google/gemma", "attn.hook_z"),
    (r"l\d+a_|attn_out|att-sm", "hook_attn_out"),
    (r"l\d+m_|mlp", "hook_mlp_out"),
    (r"", "hook_resid_post"),
)
_LLAMA_D_MODEL = 4096  # Llama Scope gives the number of neurons as a multiple of the model's width


@dataclass(frozen=True)
class PublishedSae:
    """An SAE of the list, with what the list tells of it."""

    release: str
    id: str
    model: str  # on a hub
    hook_name: str | None
    d_sae: int | None
    l0: float | None  # neurons active on a token

    @property
    def name(self) -> str:
        """As a setup has it."""
        return f"{self.release}:{self.id}"


@cache
def _list() -> dict[str, dict[str, Any]]:
    """sae_lens's list by release; empty where it is not installed."""
    found = importlib.util.find_spec("sae_lens")
    if found is None or found.origin is None:
        return {}
    with (Path(found.origin).parent / "pretrained_saes.yaml").open(encoding="utf-8") as file:
        listed: dict[str, dict[str, Any]] = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return listed


@cache
def published_saes() -> dict[str, PublishedSae]:
    """The SAEs of the list that can be read, by `release:id`."""
    return {
        sae.name: sae
        for release, entry in _list().items()
        if _is_read(release, entry)
        for sae in (_published(release, entry, listed) for listed in entry["saes"])
    }


def _is_read(release: str, entry: dict[str, Any]) -> bool:
    return entry.get("conversion_func") not in _NO_SAES and "transcoder" not in release


def _published(release: str, entry: dict[str, Any], listed: dict[str, Any]) -> PublishedSae:
    place, model = " ".join([listed["id"], str(listed["path"]), entry["repo_id"]]), entry["model"]
    return PublishedSae(
        release,
        listed["id"],
        _MODELS.get(release) or _HUB_NAMES.get(model, model),
        _hook_name(listed["id"], place),
        _d_sae(listed["id"], release, place),
        listed.get("l0") or None,
    )


def _hook_name(id: str, place: str) -> str | None:
    """The hook point, for people to read: what a model is edited at is what the SAE's own file says."""
    if id.startswith("embedding"):
        return "hook_embed"
    if named := re.match(r"blocks\.\d+\.hook_(?:resid_pre|resid_mid|resid_post|attn_out|mlp_out)", id):
        return named[0]
    layer = re.search(r"(?:layer_?|blocks\.|^l)(\d+)", id)
    kind = next(kind for words, kind in _KINDS if re.search(words, place, re.IGNORECASE))
    return None if layer is None else f"blocks.{layer[1]}.{kind}"


def _d_sae(id: str, release: str, place: str) -> int | None:
    if power := re.search(r"width-2pow(\d+)", release):
        return int(2 ** int(power[1]))
    if width := re.search(r"(?:width[-_]|-w|-v5-|-w-)(\d+)(k|m)\b", f"{id} {release} {place}".replace("_l0", " ")):
        n = int(width[1])
        if width[2] == "k" and n % 8 == 0:
            return n * 1024
        return int(2 ** round(math.log2(n * (1e3 if width[2] == "k" else 1e6))))  # 65k is 65,536
    if times := re.fullmatch(r"l\d+[ram]_(\d+)x", id):
        return int(times[1]) * _LLAMA_D_MODEL
    found = re.search(r"(?:resid_pre_|resid_post_)(\d{3,})(?:\b|_)", place)
    return int(found[1]) if found else None


def is_sparsify_repository(sae: str) -> bool:
    """Whether an SAE is `owner/repository:module`, as EleutherAI's sparsify has them, and no release of the list."""
    release, _, id = sae.partition(":")
    return "/" in release and canonical_hook(id) != id


def problem_of(sae: str) -> str | None:
    """What is wrong with `release:id`, as far as the list tells; None where nothing is, or a hub has to say."""
    release, _, id = sae.partition(":")
    entry = _list().get(release)
    if entry is None:
        if "/" in release:  # a repository, which only its hub knows
            return None
        near = nearest_releases(release)
        return f"sae_lens lists no release '{release}'" + (f"; releases like it are {'; '.join(near)}" if near else "")
    if not _is_read(release, entry):
        return f"release '{release}' has no SAEs of one hook point, and is not read"
    ids = [listed["id"] for listed in entry["saes"]]
    if id in ids:
        return None
    near = difflib.get_close_matches(id, ids, n=3, cutoff=0.0)
    return f"release '{release}' has no SAE '{id}'; it has {', '.join(near)} and {len(ids) - len(near):,} more"


def nearest_releases(name: str, n: int = 3) -> list[str]:
    """Releases of sae_lens with the first of their ids, as `release:id`: those of that repository, then like names."""
    known = _list()
    same = [release for release, entry in known.items() if name in (release, entry["repo_id"])]
    like = difflib.get_close_matches(name.rpartition("/")[2], known, n=n, cutoff=0.5)
    return [f"{release}:{known[release]['saes'][0]['id']}" for release in dict.fromkeys([*same, *like])][:n]
