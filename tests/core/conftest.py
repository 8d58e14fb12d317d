"""The tiny checkpoints of `tests/conftest.py`, loaded once a session."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from core.catalog import Setup

if TYPE_CHECKING:
    from core.models.language_model import LanguageModel
    from core.models.sparse_autoencoder import SparseAutoencoder
    from tests.fixtures.judge_endpoint import Endpoint

# No property depends on how busy the machine is. CI tries the same examples every time; a developer's run, new ones.
settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def gpt2(gpt2_folder: Path) -> LanguageModel:
    """Base model: prompts begin with `<|endoftext|>`."""
    from core.models.loading import load_language_model

    return load_language_model(Setup(name="gpt2", model=str(gpt2_folder), sae="none", device="cpu"))


@pytest.fixture(scope="session")
def qwen2(qwen2_folder: Path) -> LanguageModel:
    """Chat model: prompts go through the chat template."""
    from core.models.loading import load_language_model

    return load_language_model(Setup(name="qwen2", model=str(qwen2_folder), sae="none", device="cpu", chat=True))


@pytest.fixture(scope="session")
def instruct(qwen2_folder: Path) -> LanguageModel:
    """The same model in a setup whose prompts are plain text: the chat template is for where it is asked for."""
    from core.models.loading import load_language_model

    setup = Setup(name="qwen2", model=str(qwen2_folder), sae="none", device="cpu", instruct=True)
    return load_language_model(setup)


@pytest.fixture(scope="session")
def saes(sae_folders: Mapping[str, Path]) -> Mapping[str, SparseAutoencoder]:
    """The SAEs of `sae_folders` by the same names, but for matching pursuit, which cannot be edited."""
    from core.models.sparse_autoencoder import load_sparse_autoencoder

    return {
        name: load_sparse_autoencoder(Setup(name=name, model="none", sae=str(folder)))
        for name, folder in sae_folders.items()
        if not name.endswith("matching_pursuit")
    }


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A judge on this machine."""
    from tests.fixtures.judge_endpoint import serving_judge

    with serving_judge() as server:
        yield server
