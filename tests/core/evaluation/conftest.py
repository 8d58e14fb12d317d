"""A tiny setup at work, built once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.build import build
from core.catalog import find_setup
from core.store import Store
from core.workbench import Workbench, open_workbench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Iterator[Workbench]:
    """GPT-2 with a TopK SAE after block 1, and its store of 96 prompts."""
    root = tmp_path_factory.mktemp("evaluation")
    setup = find_setup("gpt2-topk", user_setups)
    build(setup, root)
    with Store.open(root, setup.name) as store:
        yield open_workbench(setup, store)
