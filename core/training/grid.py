"""A grid of SAEs: models x layers x expansions x methods x architectures x seeds, from a TOML file:

[grid]
name = "my-grid"
methods = ["btp", "btf", "fast"]
shared_activations_gb = 20      # disk space for activations that several jobs train on; default none
[grid.settings]                 # for every SAE: any key of [autoencoder]
tokens = 1_000_000
[[grid.models]]                 # each with its layers and expansions
model = "models/my-model"
label = "my-model"
layers = [4, 12]
expansions = [8, 16]
[[grid.architectures]]          # each with its own settings
architecture = "jumprelu"
sparsity = 0.01
[[grid.variants]]               # a method with settings of its own, trained beside the methods
name = "btp-in-template"
method = "btp"
settings = { in_template = true }
[[grid.text]]                   # sources of BT(P)
[[grid.conversations]]          # sources of BT(F) and FAST
[[grid.evaluation]]             # sources of the held-out conversations; default: those of [[grid.conversations]]
"""

import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from core.errors import TrainingConfigError
from core.training.autoencoder_config import AutoencoderConfig, Method, config_from_table, read_table
from core.training.corpus import TextSource
from core.validated import Count, Line, Name, Seed, Several, Text, Whole, from_table, shown, validated

_JOB_NAME = "{label}-L{layer}-{expansion}x-{method}-{architecture}"
_MAX_FORMAT = 4  # characters of a format in a job's name, such as the 02d of {layer:02d}


@validated(TrainingConfigError)
class GridModel:
    """A `[[grid.models]]` table."""

    model: Text
    layers: Several[Whole]
    label: Line | None = None  # None: the last part of `model`
    expansions: Several[Count] = (16,)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label_in_names(self) -> str:
        return self.model.rstrip("/").rpartition("/")[2] if self.label is None else self.label


@validated(TrainingConfigError)
class Variant:
    """A `[[grid.variants]]` table; each method of `methods` is one without settings."""

    name: Name  # in tables, and as {method} in the names of jobs
    method: Method
    settings: dict[str, Any] = field(default_factory=dict)


@validated(TrainingConfigError)
class GridTable:
    """The `[grid]` table of the file."""

    name: Name
    methods: Several[Method] = ()
    variants: Several[Variant] = ()
    models: Several[GridModel]
    architectures: Several[dict[str, Any]]
    job_name: Line | None = None  # with {label}, {layer}, {expansion}, {method}, {seed}, and an architecture's keys
    seeds: Several[Seed] = (0,)
    shared_activations_gb: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    settings: dict[str, Any] = field(default_factory=dict)
    text: Several[TextSource] = ()
    conversations: Several[TextSource] = ()
    evaluation: Several[TextSource] = ()

    def __post_init__(self) -> None:
        if any("architecture" not in architecture for architecture in self.architectures):
            raise TrainingConfigError("architectures: the key 'architecture' is missing")

    @property
    def name_format(self) -> str:
        """The format of job names; the default format includes the seed if there are several."""
        return self.job_name or _JOB_NAME + ("-seed{seed}" if len(self.seeds) > 1 else "")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The jobs of a grid, grouped by model."""

    name: str
    jobs: tuple[AutoencoderConfig, ...]
    shared_activations_bytes: int = 0  # disk space for activations that several jobs train on


def load_grid(path: Path) -> Grid:
    """Reads the `[grid]` table of a TOML file and lists its jobs.

    Raises:
        MissingFileError, TrainingConfigError: no such file, an unknown or missing key, a value out of range, or two
            jobs of one name.
    """
    found = read_table(path).get("grid")
    if found is None:
        raise TrainingConfigError(f"'{path}' has no [grid] table")
    where = f"[grid] of '{path}'"
    table = from_table(GridTable, found, where)
    jobs = tuple(_jobs(table, where))
    if not jobs:
        raise TrainingConfigError(f"{where} has no jobs: models, layers, methods and architectures must not be empty")
    names = [job.name for job in jobs]
    if repeated := sorted(name for name in set(names) if names.count(name) > 1):
        raise TrainingConfigError(f"{where} has two jobs named {repeated[0]!r}; set job_name to tell them apart")
    return Grid(name=table.name, jobs=jobs, shared_activations_bytes=int(table.shared_activations_gb * 2**30))


def _jobs(table: GridTable, where: str) -> Iterator[AutoencoderConfig]:
    for model in table.models:
        variants = (*(Variant(name=method, method=method) for method in table.methods), *table.variants)
        points = product(variants, table.seeds, model.layers, model.expansions, table.architectures)
        for variant, seed, layer, expansion, architecture in points:  # jobs that share activations follow each other
            place = {"layer": layer, "expansion": expansion, "method": variant.name, "seed": seed}
            yield _job(table, model, variant, architecture, place, where)


def _job(
    table: GridTable,
    model: GridModel,
    variant: Variant,
    architecture: Mapping[str, Any],
    place: Mapping[str, Any],
    where: str,
) -> AutoencoderConfig:
    """One SAE: the settings of the grid, overridden by those of its model, then its architecture, then its variant."""
    method = variant.method
    job = {
        **table.settings,
        **model.settings,
        **architecture,
        **variant.settings,
        "name": _job_name(table.name_format, {**architecture, **place, "label": model.label_in_names}, where),
        "model": model.model,
        "hook_name": f"blocks.{place['layer']}.hook_resid_post",
        "method": method,
        "variant": variant.name if variant.name != method else None,
        "expansion": place["expansion"],
        "seed": place["seed"],
        "sources": table.text if method == "btp" else table.conversations,
        "evaluation_sources": table.evaluation or table.conversations,
    }
    if method != "btp":
        job.setdefault("keep_special", True)  # conversations carry their template
    return config_from_table(job, f"{where}, job {job['name']!r}")


def _job_name(name_format: str, values: Mapping[str, Any], where: str) -> str:
    """A job's name. Only plain `{key}` fields are filled in, because other formats could access attributes or be huge.

    Raises:
        TrainingConfigError: the format names an unknown key or has another form.
    """
    try:
        parts = list(string.Formatter().parse(name_format))
        if any(key is not None and key not in values for _, key, _, _ in parts):
            raise KeyError
        if any(len(form or "") > _MAX_FORMAT for _, _, form, _ in parts):
            raise ValueError
        return name_format.format_map(values)
    except (KeyError, ValueError, TypeError):
        known = ", ".join(f"{{{key}}}" for key in values)
        raise TrainingConfigError(f"{where}: job_name is text with any of {known}, not {shown(name_format)}") from None
