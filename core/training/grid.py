"""A grid of SAEs: models x layers x expansions x methods x architectures x seeds, from a TOML file:

[grid]
name = "my-grid"
methods = ["btp", "btf", "fast"]
shared_activations_gb = 20      # disk for the activations of jobs that train on the same ones; without it none are kept
[grid.settings]                 # of every SAE: any key of [autoencoder]
tokens = 1_000_000
[[grid.models]]                 # each with the layers and expansions to train at
model = "models/my-model"
label = "my-model"
layers = [4, 12]
expansions = [8, 16]
[[grid.architectures]]          # each with settings of its own
architecture = "jumprelu"
sparsity = 0.01
[[grid.text]]                   # sources of BT(P)
[[grid.conversations]]          # sources of BT(F) and FAST, and of the held-out conversations
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from core.errors import TrainingConfigError
from core.training.autoencoder_config import AutoencoderConfig, config_from_table, read_table

_JOB_NAME = "{label}-L{layer}-{expansion}x-{method}-{architecture}"
_KEYS = (
    *("name", "job_name", "methods", "seeds", "shared_activations_gb"),
    *("settings", "models", "architectures", "text", "conversations"),
)
_MODEL_KEYS = ("model", "label", "layers", "expansions", "settings")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The jobs of a grid, those of one model after another."""

    name: str
    jobs: tuple[AutoencoderConfig, ...]
    shared_activations_bytes: int = 0  # of disk, for the activations of jobs that train on the same ones


def load_grid(path: Path) -> Grid:
    """Reads the `[grid]` table of a TOML file and spells out its jobs.

    Raises:
        MissingFileError, TrainingConfigError: no such file, an unknown or missing key, a value out of range, or two
            jobs of one name.
    """
    table = read_table(path).get("grid")
    if table is None:
        raise TrainingConfigError(f"'{path}' has no [grid] table")
    where = f"[grid] of '{path}'"
    _check_keys(table, _KEYS, ("name", "methods", "models", "architectures"), where)
    jobs = tuple(_jobs(table, where))
    if not jobs:
        raise TrainingConfigError(f"{where} has no jobs: models, layers, methods and architectures must not be empty")
    names = [job.name for job in jobs]
    if repeated := sorted(name for name in set(names) if names.count(name) > 1):
        raise TrainingConfigError(f"{where} has two jobs named {repeated[0]!r}; set job_name to tell them apart")
    shared = table.get("shared_activations_gb", 0)
    if isinstance(shared, bool) or not isinstance(shared, int | float) or not 0 <= shared < math.inf:
        raise TrainingConfigError(f"{where}: shared_activations_gb is a number from 0 up; it is {shared!r}")
    return Grid(name=table["name"], jobs=jobs, shared_activations_bytes=int(shared * 2**30))


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    if unknown := sorted(set(table) - set(known)):
        raise TrainingConfigError(f"{where}: unknown key {unknown[0]!r}; it knows {', '.join(known)}")
    if missing := [key for key in needed if key not in table]:
        raise TrainingConfigError(f"{where}: the key {missing[0]!r} is missing")


def _jobs(table: Mapping[str, Any], where: str) -> Iterator[AutoencoderConfig]:
    for model in table["models"]:
        _check_keys(model, _MODEL_KEYS, ("model", "layers"), f"{where}, models")
        points = product(
            model["layers"],
            table["methods"],
            table.get("seeds", [0]),
            model.get("expansions", [16]),
            table["architectures"],
        )
        for layer, method, seed, expansion, architecture in points:  # those on the same activations in a row
            place = {"layer": layer, "expansion": expansion, "method": method, "seed": seed}
            yield _job(table, model, architecture, place, where)


def _job(
    table: Mapping[str, Any],
    model: Mapping[str, Any],
    architecture: Mapping[str, Any],
    place: Mapping[str, Any],
    where: str,
) -> AutoencoderConfig:
    """One SAE: the grid's settings, overridden by the model's, then the architecture's, then its place in the grid."""
    if "architecture" not in architecture:
        raise TrainingConfigError(f"{where}, architectures: the key 'architecture' is missing")
    conversations = table.get("conversations", ())
    with_seed = "-seed{seed}" if len(table.get("seeds", [0])) > 1 and "job_name" not in table else ""
    label = model.get("label", model["model"].rpartition("/")[2])
    names = {**architecture, **place, "label": label}
    job = {
        **table.get("settings", {}),
        **model.get("settings", {}),
        **architecture,
        "name": (table.get("job_name", _JOB_NAME) + with_seed).format_map(names),
        "model": model["model"],
        "hook_name": f"blocks.{place['layer']}.hook_resid_post",
        "method": place["method"],
        "expansion": place["expansion"],
        "seed": place["seed"],
        "sources": table.get("text", ()) if place["method"] == "btp" else conversations,
        "evaluation_sources": conversations,
    }
    if place["method"] != "btp":
        job.setdefault("keep_special", True)  # conversations carry their template
    return config_from_table(job, f"{where}, job {job['name']!r}")
