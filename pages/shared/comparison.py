"""A comparison on the Generate page: the request, and its columns while they are generated. Kept in the session."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from core.errors import NeuronRangeError, SteerscopeError, UsageError
from core.evaluation.example import EXAMPLE, restored
from core.settings import GenerationSettings
from core.steering.settings import SteeringSettings
from core.store.reader import Store
from core.text.prompts import Topic, bundled_topics, unaligned_prompts
from pages.shared.resources import ScoredIn, scored_topic, workbench, workbench_beside

if TYPE_CHECKING:  # imports torch, which is loaded when something is generated
    import pandas as pd

    from core.catalog import Setup
    from core.scoring.scorer import ScoredTopic
    from core.steering.generated import Generation
    from core.steering.snippet import Snippet
    from core.steering.ways import Way
    from core.steering.workbench import Proof, Workbench

COLUMNS = {
    "none": "Original",
    "sae": "SAE",
    "clamp": "Clamp",
    "swap": "Swap",
    "weight": "Weight",
    "add": "Add",
    "vector": "Vector",
    "prompt": "Prompt",
}


def parse_alphas(
    text: str, strength: float = 1.0, reference_max: Sequence[float] | None = None
) -> tuple[tuple[int, float], ...]:
    """Neurons with their alphas, from text such as `17:40 12:-5`, or `17 12` for neurons at a common strength.

    Args:
        strength: of the neurons without an alpha, times the neuron's largest reference activation.
        reference_max: [d_sae]; needed for neurons without an alpha.

    Raises:
        UsageError: the text has another form, or a neuron without an alpha never fires.
        NeuronRangeError: the SAE has no such neuron.
    """
    pairs = []
    for part in text.replace(",", " ").split():
        number, colon, alpha = part.partition(":")
        try:
            neuron, value = int(number), float(alpha) if colon else None
        except ValueError as exc:
            raise UsageError(f"added neurons are written 17 12, or 17:40 12:-5 with alphas; '{part}' is not") from exc
        pairs.append((neuron, _usual(neuron, strength, reference_max) if value is None else value))
    return tuple(pairs)


def _usual(neuron: int, strength: float, reference_max: Sequence[float] | None) -> float:
    largest = [] if reference_max is None else reference_max
    if not 0 <= neuron < len(largest):
        raise NeuronRangeError(neuron, len(largest))
    if not largest[neuron] > 0:
        raise UsageError(f"neuron {neuron} never fires on the reference prompts: give it an alpha, as in {neuron}:5")
    return float(f"{strength * float(largest[neuron]):.4g}")


def format_alphas(alphas: tuple[tuple[int, float], ...]) -> str:
    """The pairs as text, in the form that `parse_alphas` reads."""
    return " ".join(f"{neuron}:{alpha:g}" for neuron, alpha in alphas)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that the controls ask for."""

    setup: Setup
    prompt: str
    topic: Topic
    edits: tuple[str, ...]
    generation: GenerationSettings
    steering: SteeringSettings
    also: tuple[str, ...] = ()  # setups at other layers of the model, steered at the same time
    n_seeds: int = 1  # seeds in turn, from that of `generation`

    def of_seed(self, number: int) -> Request:
        """The request of one of its seeds, counted from 0."""
        generation = replace(self.generation, seed=self.generation.seed + number)
        return replace(self, generation=generation, n_seeds=1)

    def command(self) -> str:
        """The command line that generates the same texts."""
        steering = self.steering
        bundled = bundled_topics().get(self.topic.name) == self.topic
        topic = self.topic.name if bundled else "\n".join(self.topic.prompts)
        words = ["python", "-m", "core", "generate", self.setup.name, "--prompt", self.prompt, "--topic", topic]
        for edit in self.edits:
            words += ["--edit", edit]
        words += ["--seed", str(self.generation.seed), "--tokens", str(self.generation.max_new_tokens)]
        words += ["--clamp-n", str(steering.n), "--multiplier", f"{steering.multiplier:g}"]
        for neuron, alpha in steering.alphas:
            words += ["--neuron", str(neuron), "--alpha", f"{alpha:g}"]
        words += ["--alpha", f"{steering.vector_alpha:g}"]
        words += ["--greedy"] if self.generation.greedy else []
        flags = asdict(steering)
        if self.generation.chat is not None:
            words += ["--chat" if self.generation.chat else "--no-chat"]
        words += [f"--{flag.replace('_', '-')}" for flag in ("keep_error", "matched_count", "current") if flags[flag]]
        words += ["--sharpness", str(steering.sharpness)] if steering.sharpness != 1 else []
        words += ["--reach", f"{steering.reach:g}"] if steering.reach is not None else []
        words += ["--positions", steering.positions] if steering.positions else []
        words += [word for name in self.also for word in ("--also", name)]
        return shlex.join(words)


@dataclass(frozen=True)
class Layer:
    """Another layer of the model to steer at, with the topic as scored by its SAE."""

    setup: Setup
    store: Store
    scored: ScoredIn


@dataclass
class Column:
    """One way of steering: its text so far, and its figures once they are measured."""

    edit: str
    way: Way | None = None  # None: not possible; `problem` says why
    generation: Generation | None = None
    figures: dict[str, float] = field(default_factory=dict)
    problem: str = ""
    proof: Proof | None = None  # the check at zero strength, once it was run


@dataclass
class Comparison:
    """The columns of one request."""

    request: Request
    columns: list[Column] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what the edits do on this SAE
    seconds: float = 0.0  # of generating, without loading
    complete: bool = False
    topic: ScoredTopic | None = None  # as the edits use it

    def run(
        self, store: Store, scored: ScoredIn, also: Sequence[Layer] = (), like: Comparison | None = None
    ) -> Iterator[None]:
        """Generates all columns at once; yields after every token, and once more when the figures are measured.

        The caller may stop at any time and keeps the text so far. No edit stays in place between two tokens.

        Args:
            like: a comparison that differs in the seed alone, whose ways of steering serve this one too.

        Raises:
            SteerscopeError: the problem concerns all columns; a problem of one column is stored as its `problem`.
        """
        request = self.request
        if like is None or like.topic is None:
            self.columns = [Column(name) for name in request.edits]
            bench = self.make_ways(store, scored, also)
        else:
            self.columns = [Column(column.edit, column.way, problem=column.problem) for column in like.columns]
            bench, self.topic = workbench(request.setup, store), like.topic
        possible = {column.edit: column.way for column in self.columns if column.way is not None}
        self.notes = list(dict.fromkeys(note for way in possible.values() for note in way.notes))
        if possible:
            start = time.perf_counter()
            generator = bench.together(
                list(possible.values()), [request.prompt], self.topic, request.generation, keep_going=True
            )
            made = dict(zip(possible, generator.generations, strict=True))
            for column in self.columns:
                column.generation = made.get(column.edit)
            for _ in generator:
                self.seconds = time.perf_counter() - start
                yield
        self.measure(store)
        self.complete = True
        yield

    @classmethod
    def of_example(cls, request: Request, tables: Mapping[str, pd.DataFrame]) -> Comparison | None:
        """The saved comparison, complete, if it is what is asked for; its ways of steering are made when needed."""
        asked = (request.prompt, request.topic, request.edits, request.steering, request.generation, request.also)
        chat = request.setup.chat if request.generation.chat is None else request.generation.chat
        example = replace(EXAMPLE.generation, chat=request.generation.chat)
        if chat or asked != (EXAMPLE.prompt, EXAMPLE.topic, EXAMPLE.edits, EXAMPLE.steering, example, ()):
            return None
        if (shown := restored(tables)) is None:
            return None
        columns = [Column(edit, generation=one.generation, figures=one.figures) for edit, one in shown.items()]
        notes = list(dict.fromkeys(note for one in shown.values() for note in one.notes))
        return cls(request, columns, notes, complete=True)

    def make_ways(self, store: Store, scored: ScoredIn, also: Sequence[Layer] = ()) -> Workbench:
        """Loads the setup, and makes each column's way of steering or says why it cannot be.

        Raises:
            SteerscopeError: the setup cannot be loaded.
        """
        from core.steering.workbench import across_layers

        request = self.request
        bench, self.topic = workbench(request.setup, store), scored_topic(request.topic, scored)
        benches = [bench, *(workbench_beside(layer.setup, layer.store, request.setup, store) for layer in also)]
        topics = [self.topic, *(scored_topic(request.topic, layer.scored) for layer in also)]
        for column in self.columns:
            try:
                column.way = across_layers(benches, column.edit, topics, request.steering)
            except SteerscopeError as exc:
                column.problem = str(exc)
        return bench

    def measure(self, store: Store) -> None:
        """Measures the texts generated so far."""
        bench = workbench(self.request.setup, store)
        made = [column.generation for column in self.columns if column.generation is not None]
        figures = iter(bench.figures(made, self.topic) if made else [])
        for column in self.columns:
            if column.generation is not None:
                own, column.problem = next(figures), column.generation.problem
                column.figures = {} if column.problem else own

    @property
    def measured(self) -> list[Column]:
        """The columns that have figures."""
        return [column for column in self.columns if column.figures]

    def prove(self, store: Store) -> None:
        """Generates every column at zero strength, which must equal the unsteered text or the SAE's.

        Raises:
            SteerscopeError: the request cannot be generated.
        """
        bench, tried = workbench(self.request.setup, store), self.measured
        ways = [column.way for column in tried if column.way is not None]
        for column, proof in zip(tried, bench.prove(ways, self.request.prompt, self.request.generation), strict=True):
            column.proof = proof

    def script(self, column: Column, store: Store) -> Snippet:
        """A Python script that reproduces a column.

        Raises:
            EditError: the column steers at several layers.
        """
        from core.steering.snippet import python_snippet

        assert column.way is not None
        bench = workbench(self.request.setup, store)
        return python_snippet(bench.model, bench.sae, column.way, self.request.prompt, self.request.generation)

    def vector(self, column: Column, store: Store, suffix: str) -> bytes:
        """What a column's only edit adds to a token, mean over the unaligned prompts, as the bytes of a file.

        Args:
            suffix: of the file; see `core.steering.vector_file.write_vector`.

        Raises:
            EditError: that kind of file cannot hold a vector for the edit's hook point.
        """
        from core.steering.directions import mean_shift
        from core.steering.vector_file import write_vector

        assert column.way is not None
        edit, model = column.way.placed[0].edit, workbench(self.request.setup, store).model
        direction = mean_shift(model, edit, unaligned_prompts())
        with TemporaryDirectory() as folder:
            return write_vector(direction, edit.hook_name, model, Path(folder) / f"vector{suffix}").read_bytes()

    def rows(self) -> list[dict[str, Any]]:
        """One row per complete column, to collect; undefined figures are left out."""
        request = self.request
        steering = {**asdict(request.steering), "alphas": format_alphas(request.steering.alphas)}
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
                **steering,
                "also": " ".join(request.also),
            }
            for column in (self.measured if self.complete else [])
            if column.generation is not None
        ]
