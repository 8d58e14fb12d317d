"""Where the new setup's SAE comes from: sae_lens's list, or a folder."""

import re
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from core.models.releases import PublishedSae, published_saes
from pages.shared.glossary.index import help_text
from pages.shared.messages import plain

LISTED, FOLDER = "sae_lens's list", "A folder"
_OPENS_ON = "gpt2"  # small, and many SAEs are for it


@dataclass(frozen=True)
class Source:
    """The chosen SAE, and what it suggests for the rest of the form."""

    sae: str
    model: str = ""
    name: str = ""


def choose_source(folder: Path) -> Source:
    """The SAE that the user chooses; with empty text until there is one.

    Args:
        folder: what paths are relative to.
    """
    kind = st.segmented_control(
        "SAE from",
        [LISTED, FOLDER],
        default=LISTED,
        required=True,
        key="sae_from",
        bind="query-params",
        help=help_text("release"),
    )
    return _listed() if kind == LISTED else _in_folder(folder)


def _listed() -> Source:
    with st.spinner("Reading sae_lens's list ...", show_time=False):
        listed = list(published_saes().values())
    model_place, release_place, id_place = st.columns(3, gap="small")
    models = sorted({sae.model for sae in listed}, key=str.lower)
    model = model_place.selectbox(
        "Model of the SAE",
        models,
        index=models.index(_OPENS_ON) if _OPENS_ON in models else 0,
        key="listed_model",
        bind="query-params",
        help="Type to search. A hub's name, as the list has it or as we know it.",
    )
    of_model = [sae for sae in listed if sae.model == model]
    release = release_place.selectbox(
        "Release",
        list(dict.fromkeys(sae.release for sae in of_model)),
        key="listed_release",
        bind="query-params",
        help=help_text("release"),
    )
    of_release = [sae for sae in of_model if sae.release == release]
    id = id_place.selectbox(
        "SAE",
        [sae.id for sae in of_release],
        key="listed_sae",
        bind="query-params",
        help="Type to search, such as layer_12 or 16k.",
    )
    chosen = next((sae for sae in of_release if sae.id == id), None)
    if chosen is None:
        return Source("")
    st.caption(plain(_facts(chosen)))
    layer = re.search(r"\d+", chosen.hook_name or "")
    parts = [chosen.model.rpartition("/")[2].lower(), f"l{layer[0]}" if layer else ""]
    parts.append(f"{chosen.d_sae // 1000}k" if chosen.d_sae else "mine")  # the presets' names have no such end
    return Source(chosen.name, chosen.model, "-".join(part for part in parts if part))


def _facts(sae: PublishedSae) -> str:
    """What the list tells of an SAE."""
    facts = [
        sae.model,
        sae.hook_name or "its hook point is in its own file",
        f"{sae.d_sae:,} neurons" if sae.d_sae else "its number of neurons is in its own file",
    ]
    return " · ".join([*facts, *([f"{sae.l0:g} active on a token"] if sae.l0 else [])])


def _in_folder(folder: Path) -> Source:
    typed: str = st.text_input(
        "SAE folder",
        key="sae_folder",
        placeholder="saes/my-topk",
        help="Of sae_lens, sparsify or dictionary_learning (safetensors). Also owner/repository:module of sparsify.",
    )
    st.caption(plain(f"Folders are below {folder}, where the file of setups is. Elsewhere: python -m core add-setup."))
    place = typed.strip()
    return Source(place, "", re.sub(r"[^A-Za-z0-9_.-]+", "-", place.rpartition("/")[2]).lower())
