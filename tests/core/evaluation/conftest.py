"""A tiny setup at work; its store is built once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.build.pipeline import build
from core.catalog import find_setup
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store

SETUP = "gpt2-topk"


@pytest.fixture(scope="session")
def built_root(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Path:
    """Root of the store of SETUP, 96 prompts."""
    root = tmp_path_factory.mktemp("evaluation")
    build(find_setup(SETUP, user_setups), root)
    return root


@pytest.fixture(scope="module")
def bench(built_root: Path, user_setups: Path) -> Iterator[Workbench]:
    """GPT-2 with a TopK SAE after block 1."""
    with Store.open(built_root, SETUP) as store:
        yield open_workbench(find_setup(SETUP, user_setups), store)
