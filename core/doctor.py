"""Checks the installation: package versions, device, embedding model, and the health of each store."""

import platform
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from core.catalog import listed_setups, missing_parts
from core.errors import SteerscopeError, StoreNotBuiltError, in_one_line
from core.models.embeddings import embedded_model_folder
from core.models.loading import best_device
from core.results.app_store import AppStore
from core.store.reader import Store
from core.store.schema import build_command

PACKAGES = ("torch", "transformers", "transformer-lens", "sae-lens", "sentence-transformers", "streamlit", "duckdb")


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that matter; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _packages() -> Iterator[tuple[str, str, bool]]:
    found = versions()
    for package in ("python", *PACKAGES):
        yield package, found.get(package, "not installed: pip install -r requirements.txt"), package in found


def _embedding_model() -> tuple[str, str, bool]:
    try:
        embedded_model_folder()
    except SteerscopeError as exc:
        return "all-MiniLM-L6-v2", str(exc), False
    return "all-MiniLM-L6-v2", "weights checked", True


def _store(root: Path, name: str) -> tuple[str, str, bool]:
    try:
        with Store.open(root, name) as store:
            store.check()
            return f"store {name}", f"{store.n_prompts:,} prompts, {store.d_sae:,} neurons, every block read", True
    except StoreNotBuiltError:
        return f"store {name}", f"not built: {build_command(root, name)}", True
    except Exception as exc:  # whatever one damaged store does, the others are examined
        return f"store {name}", in_one_line(exc), False


def _app_store(root: Path) -> Iterator[tuple[str, str, bool]]:
    results = AppStore(root)
    if results.path.exists():
        try:
            results.check()
            yield "results", f"{len(results.results()):,} tables in '{results.path}', every block read", True
        except SteerscopeError as exc:
            yield "results", str(exc), False


def examine(root: Path) -> pd.DataFrame:
    """Checks everything; one row per thing examined, with columns what, finding, ok."""
    rows = [*_packages(), ("device", best_device(), True), _embedding_model(), *_app_store(root)]
    setups, problems = listed_setups()
    rows += [("setups", str(problem), False) for problem in problems]
    runnable = [setup.name for setup in setups.values() if not missing_parts(setup)]
    there = [path.parent.name for path in sorted(root.glob("*/store.duckdb"))]  # also of setups that are gone
    rows += [_store(root, name) for name in dict.fromkeys([*runnable, *there])]
    return pd.DataFrame(rows, columns=["what", "finding", "ok"])
