"""Tables that come with the repository: figures of the papers, results of our own runs, figures of the shipped SAEs."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from core.catalog import DATA
from core.errors import AutoencoderError, MissingFileError

PUBLISHED = DATA / "published"
RESULTS = DATA / "results"
AUTOENCODERS = DATA / "saes"

_SETTINGS = ("name", "model", "hook_name", "method", "architecture", "expansion", "seed", "tokens", "sparsity", "k")


def published_names() -> list[str]:
    """Names of the tables that `published` can read."""
    return sorted(path.stem for path in PUBLISHED.glob("*.csv"))


def published(name: str) -> pd.DataFrame:
    """A table of the papers, `data/published/<name>.csv`; the README there gives its source and columns.

    Raises:
        MissingFileError: no such table; the message lists the known ones.
    """
    if name not in published_names():
        known = ", ".join(published_names()) or "none"
        raise MissingFileError(PUBLISHED / f"{name}.csv", f"the published tables are: {known}")
    return pd.read_csv(PUBLISHED / f"{name}.csv")


def shipped_results(what: str) -> dict[str, pd.DataFrame]:
    """Results of our own runs of one experiment, read from `data/results/<name>_<what>.csv`.

    Returns:
        Tables, as `AppStore.result` returns them, by name with hyphens for underscores.
    """
    ending = f"_{what}.csv"
    files = sorted(RESULTS.glob(f"*{ending}"))
    return {file.name.removesuffix(ending).replace("_", "-"): pd.read_csv(file) for file in files}


def shipped_autoencoders() -> pd.DataFrame:
    """Settings and figures of the SAEs in `data/saes`, one row each, with the columns of `grid_run.results_table`.

    `tokens` is the number of training tokens, `evaluated_tokens` the number behind the figures, `d_sae` the number of
    neurons. Settings are read from `training.json`, else from `cfg.json`; a figure that was not measured is missing.

    Raises:
        AutoencoderError: one of their files cannot be read.
    """
    folders = sorted(file.parent for file in AUTOENCODERS.glob("*/cfg.json"))
    return pd.DataFrame([_card(folder) for folder in folders])


def training_method(sae: str) -> str | None:
    """The method that trained the SAE in a folder (`fast`, `btp`, `btf`); None where its files do not say.

    Raises:
        AutoencoderError: one of them cannot be read.
    """
    folder = Path(sae)
    metadata = _json(folder / "cfg.json").get("metadata") or {}
    method: str | None = _json(folder / "training.json").get("method") or metadata.get("training_method")
    return method


def _card(folder: Path) -> dict[str, Any]:
    config = _json(folder / "cfg.json")
    settings = _json(folder / "training.json") or _settings_of(config, folder)
    figures = pd.json_normalize(_json(folder / "evaluation.json"), sep="_").rename(
        columns={"tokens": "evaluated_tokens"}
    )
    counts = _json(folder / "text.json")  # of conversations that deduplication read and dropped
    row = {key: settings.get(key) for key in _SETTINGS} | {name: column.iloc[0] for name, column in figures.items()}
    return row | counts | {"folder": folder.name, "error": None, "d_sae": config["d_sae"]}


def _settings_of(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The training settings in an SAE's own config, which does not hold lambda."""
    metadata = config.get("metadata", {})
    return {
        "name": folder.name,
        "model": metadata.get("model_name"),
        "hook_name": metadata.get("hook_name"),
        "method": metadata.get("training_method"),
        "architecture": metadata.get("training_architecture", config["architecture"]),
        "expansion": config["d_sae"] // config["d_in"],
        "seed": metadata.get("training_seed"),
        "tokens": metadata.get("training_tokens"),
        "sparsity": None,
        "k": config.get("k"),
    }


def _json(file: Path) -> dict[str, Any]:
    """The file's JSON object; empty if there is no file."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise AutoencoderError(f"'{file}' cannot be read ({exc}); restore it, or train the SAE again") from exc
    return content
