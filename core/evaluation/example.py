"""The comparison that the Generate page opens with, saved so that it is there before the model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from core.evaluation.experiments import ExperimentOptions
from core.progress import Progress
from core.settings import GenerationSettings
from core.steering.generated import Generation, TokenFigures
from core.steering.settings import SteeringSettings
from core.text.prompts import Topic, parse_topic

if TYPE_CHECKING:
    from core.steering.workbench import Workbench


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt, a topic, and the ways of steering side by side."""

    prompt: str
    topic: Topic
    edits: tuple[str, ...]
    steering: SteeringSettings
    generation: GenerationSettings


EXAMPLE = Example(
    prompt="My heart is broken, so I should",
    topic=parse_topic("heart surgery"),
    edits=("none", "sae", "clamp", "swap"),
    # chosen by the texts of two topics, see docs/log.md: the topic shows and the text stays English
    steering=SteeringSettings(keep_error=True, sharpness=2.0, multiplier=1.0),
    generation=GenerationSettings(seed=1),
)
TABLES = ("example", "example-tokens")
_PLACES = ("prefix", "text", "problem", "positions_edited", "positions_run")  # of a generation, kept in `example`


@dataclass(frozen=True)
class Shown:
    """One column of a saved comparison."""

    generation: Generation
    figures: dict[str, float]
    notes: tuple[str, ...]


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `example`, one row per column with its figures, and `example-tokens`, one row per token."""
    scored = workbench.score(EXAMPLE.topic)
    ways = [workbench.way(name, scored, EXAMPLE.steering) for name in EXAMPLE.edits]
    generator = workbench.together(ways, [EXAMPLE.prompt], scored, EXAMPLE.generation)
    for done, _ in enumerate(generator, start=1):
        progress("example", done / EXAMPLE.generation.max_new_tokens)
    made = generator.generations
    rows = [
        {"edit": way.name, "notes": list(way.notes), **{name: getattr(g, name) for name in _PLACES}, **figures}
        for way, g, figures in zip(ways, made, workbench.figures(made, scored), strict=True)
    ]
    tokens = [
        {"edit": way.name, "token": token, **_token_row(figures)}
        for way, g in zip(ways, made, strict=True)
        for token, figures in zip(g.tokens, g.figures, strict=True)
    ]
    return {"example": pd.DataFrame(rows).assign(**_settings(EXAMPLE)), "example-tokens": pd.DataFrame(tokens)}


def _settings(example: Example) -> dict[str, str]:
    """The settings as text, kept in every row, by which a saved comparison is known to be of these settings."""
    return {
        "prompt": example.prompt,
        "topic": example.topic.title,
        "steering": str(example.steering),
        "generation": str(example.generation),
    }


def _token_row(figures: TokenFigures) -> dict[str, Any]:
    row = asdict(replace(figures, top_neurons=()))
    del row["top_neurons"]
    neurons, activations = zip(*figures.top_neurons, strict=True) if figures.top_neurons else ((), ())
    return {**row, "neurons": list(neurons), "activations": list(activations)}


def restored(tables: Mapping[str, pd.DataFrame]) -> dict[str, Shown] | None:
    """The columns of the saved comparison by edit; None if it was made with other settings than `EXAMPLE`'s."""
    rows, tokens = (tables[name] for name in TABLES)
    due = _settings(EXAMPLE)
    if any((rows[name] != value).any() for name, value in due.items()) or tuple(rows["edit"]) != EXAMPLE.edits:
        return None
    return {row["edit"]: _shown(row, tokens[tokens["edit"] == row["edit"]]) for row in rows.to_dict("records")}


def _shown(row: Mapping[str, Any], tokens: pd.DataFrame) -> Shown:
    records = tokens.astype(object).where(tokens.notna(), None).to_dict("records")
    generation = Generation(
        prompt=row["prompt"],
        edit=row["edit"],
        tokens=[record["token"] for record in records],
        figures=[_token_figures(record) for record in records],
        **{name: row[name] for name in _PLACES},
    )
    not_figures = {"edit", "notes", *_settings(EXAMPLE), *_PLACES}
    figures = {name: float(value) for name, value in row.items() if name not in not_figures}
    return Shown(generation, figures, tuple(row["notes"]))


def _token_figures(record: Mapping[str, Any]) -> TokenFigures:
    changed = record["neurons_changed"]
    return TokenFigures(
        contamination=record["contamination"],
        contamination_share=record["contamination_share"],
        reconstruction_delta=record["reconstruction_delta"],
        neurons_changed=None if changed is None else int(changed),
        own_share=record.get("own_share"),  # of earlier versions: not there
        top_neurons=tuple(zip(map(int, record["neurons"]), record["activations"], strict=True)),
    )
