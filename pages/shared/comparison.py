"""A comparison on the Generate page: what was asked, and the columns as they grow. Kept in the session."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from core.errors import SteerscopeError
from core.prompts import Topic, bundled_topics
from core.settings import GenerationSettings
from core.store import Store
from pages.shared.resources import ScoredIn, scored_topic, workbench

if TYPE_CHECKING:  # imports torch, which waits until something is generated
    from core.catalog import Setup
    from core.generation import Generation

COLUMNS = {"none": "Original", "sae": "SAE", "clamp": "Clamp", "swap": "Swap", "weight": "Weight"}
NEED_TOPIC = ("clamp", "swap", "weight")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the controls ask for."""

    setup: Setup
    prompt: str
    topic: Topic
    edits: tuple[str, ...]
    generation: GenerationSettings
    keep_error: bool
    matched_count: bool
    n: int
    multiplier: float
    current: bool
    positions: str | None  # None: each edit's own

    @property
    def steering(self) -> dict[str, Any]:
        """The fields of `core.workbench.SteeringSettings`."""
        names = ("keep_error", "matched_count", "n", "multiplier", "current", "positions")
        return {name: getattr(self, name) for name in names}

    def command(self) -> str:
        """The command that generates the same texts."""
        bundled = bundled_topics().get(self.topic.name) == self.topic
        topic = self.topic.name if bundled else "\n".join(self.topic.prompts)
        words = ["python", "-m", "core", "generate", self.setup.name, "--prompt", self.prompt, "--topic", topic]
        for edit in self.edits:
            words += ["--edit", edit]
        words += ["--seed", str(self.generation.seed), "--tokens", str(self.generation.max_new_tokens)]
        words += ["--clamp-n", str(self.n), "--multiplier", f"{self.multiplier:g}"]
        flags = {"greedy": self.generation.greedy, "keep-error": self.keep_error, "matched-count": self.matched_count}
        words += [f"--{flag}" for flag, on in {**flags, "current": self.current}.items() if on]
        words += ["--positions", self.positions] if self.positions else []
        return shlex.join(words)


@dataclass
class Column:
    """One way of steering: its text as far as it is, and its figures when it is complete."""

    edit: str
    generation: Generation | None = None
    figures: dict[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass
class Comparison:
    """The columns of one request."""

    request: Request
    columns: list[Column] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the edits do on this SAE
    seconds: float = 0.0  # of generating, loading left out
    complete: bool = False

    def run(self, store: Store, scored: ScoredIn) -> Iterator[Column]:
        """Generates column after column; yields the column that grew, after every token and when it is complete.

        Whoever stops asking leaves the columns as they are; no edit stays in place between two tokens.

        Raises:
            SteerscopeError: the setup cannot be loaded. What concerns one column alone becomes its `problem`.
        """
        from core.workbench import SteeringSettings

        request = self.request
        bench, topic = workbench(request.setup, store), scored_topic(request.topic, scored)
        self.notes = _notes(request, bench.sae, scored)
        steering = SteeringSettings(**request.steering)
        start = time.perf_counter()
        for name in request.edits:
            column = Column(name)
            self.columns.append(column)
            try:
                edit = bench.edit(name, topic, steering)
                generator = bench.generator(edit, [request.prompt], topic, request.generation, request.positions)
                column.generation = generator.generations[0]
                for _ in generator:
                    yield column
                column.figures = bench.figures(generator.generations, topic)[0]
            except SteerscopeError as exc:
                column.problem = str(exc)
            self.seconds = time.perf_counter() - start
            yield column
        self.complete = True

    def rows(self) -> list[dict[str, Any]]:
        """One row a complete column, as Compare and export keeps them; undefined figures are left out."""
        request = self.request
        return [
            {
                "kind": "text",
                "setup": request.setup.name,
                "topic": request.topic.title,
                "edit": column.edit,
                "prompt": request.prompt,
                "text": column.generation.text,
                **{name: value for name, value in column.figures.items() if math.isfinite(value)},
                **asdict(request.generation),
                **request.steering,
            }
            for column in self.columns
            if column.generation is not None and column.figures
        ]


def _notes(request: Request, sae: Any, scored: ScoredIn) -> list[str]:
    from core.selection import describe_swap

    notes = []
    if "clamp" in request.edits:
        best = ", ".join(f"{neuron:,}" for neuron in scored.scores.ranked(request.n)["neuron"])
        value = "their activation on the token" if request.current else "their largest reference activation"
        notes.append(f"Clamp forces neurons {best} to {request.multiplier:g} times {value}.")
    if "swap" in request.edits:
        score = scored.scores.steering_vector()
        notes.append(describe_swap(sae, int((score == 0).sum()), matched_count=request.matched_count))
    return notes
