"""A loaded setup, for commands and pages: scores topics, makes edits, generates text and measures it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.catalog import Setup
from core.errors import EditError, UsageError
from core.models.embeddings import EmbeddingModel, load_embedding_model
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder, load_setup, load_sparse_autoencoder
from core.scoring.scorer import ScoredTopic, Scorer
from core.scoring.sharpness import AUTO, auto_sharpness
from core.settings import GenerationSettings
from core.steering.code_edits import Edit, Watch
from core.steering.directions import mean_activation
from core.steering.edits import EDIT_NAMES, EditName, make_edit
from core.steering.generated import Generation
from core.steering.generation import Generator, Prompt
from core.steering.metrics import distinct_n, perplexity, repetition, text_distances, topic_percentile
from core.steering.placement import PlacedEdit, placed_edit
from core.steering.settings import Positions, SteeringSettings
from core.steering.ways import Way
from core.store.reader import Store
from core.text.chat_template import Conversation
from core.text.prompts import Topic, unaligned_prompts

PROMPT = "prompt"  # the baseline that edits nothing and asks for the topic in words
WAY_NAMES: tuple[str, ...] = (*EDIT_NAMES, PROMPT)

FIGURE_NAMES = (
    "distance",
    "topic_percentile",
    "perplexity",
    "contamination",
    "contamination_share",
    "reconstruction_delta",
    "neurons_changed",
    "distinct_2",
    "repetition",
)


@dataclass(frozen=True)
class Proof:
    """Whether a way of steering at zero strength generates the tokens that it must."""

    unsteered: str  # what it must equal: `none`, or `sae` at the same positions
    identical: bool


@dataclass(frozen=True)
class Column:
    """One way of steering: its continuations and, for each, its figures (NaN where undefined)."""

    name: str
    generations: list[Generation]
    figures: list[dict[str, float]]
    notes: tuple[str, ...] = ()  # what this way can change and what it cannot, in words


class Workbench(Scorer):
    """A loaded setup: scores topics, steers the model, measures the text."""

    def __init__(
        self, store: Store, embedding_model: EmbeddingModel, model: LanguageModel, sae: SparseAutoencoder
    ) -> None:
        super().__init__(store, embedding_model)
        self.model, self.sae = model, sae

    def edit(self, name: EditName, scored: ScoredTopic | None, settings: SteeringSettings) -> Edit | None:
        """Makes the edit of that name for a scored topic.

        Raises:
            EditError: the edit needs a topic, and `scored` is None.
        """
        return make_edit(
            name,
            self.sae,
            score=None if scored is None else scored.scores.steering_vector(),
            reference_max=self.store.reference_max(),
            keep_error=settings.keep_error,
            matched_count=settings.matched_count,
            sharpness=self._sharpness(scored, settings),
            n=settings.n,
            multiplier=settings.multiplier,
            current=settings.current,
            reach=settings.reach,
            alphas=self._alphas(scored, settings) if name == "add" else None,
            direction=self.direction(scored.topic) if name == "vector" and scored is not None else None,
            alpha=settings.vector_alpha,
        )

    def _sharpness(self, scored: ScoredTopic | None, settings: SteeringSettings) -> float:
        if settings.sharpness != AUTO:
            return settings.sharpness
        if scored is None:
            return 1.0  # without a topic there is no swap
        mean, k = self.store.mean_token()
        return auto_sharpness(mean, scored.scores.steering_vector(), k)

    def _alphas(self, scored: ScoredTopic | None, settings: SteeringSettings) -> dict[int, float]:
        if settings.alphas or scored is None:
            return dict(settings.alphas)
        best = int(scored.scores.ranked(1)["neuron"].iloc[0])
        return {best: float(self.store.reference_max()[best])}

    def direction(self, topic: Topic) -> Float[Tensor, "d_in"]:
        """What `vector` adds: mean activation on the topic's prompts minus that on the bundled unaligned ones."""
        return mean_activation(self.model, self.sae.hook_name, topic.prompts) - self._unaligned_mean

    @cached_property
    def _unaligned_mean(self) -> Float[Tensor, "d_in"]:
        return mean_activation(self.model, self.sae.hook_name, unaligned_prompts())

    def way(self, name: str, scored: ScoredTopic | None, settings: SteeringSettings) -> Way:
        """Makes a way of steering by its name: an edit, `prompt`, or several joined by `+`, which act in that order.

        Raises:
            EditError: the name is unknown, or needs a topic while `scored` is None.
        """
        placed: list[PlacedEdit] = []
        prefix = ""
        for part in name.split("+"):
            if part not in WAY_NAMES:
                raise EditError(f"no edit '{part}'; there are {', '.join(WAY_NAMES)}, alone or joined by +")
            if part == PROMPT:
                prefix += _prefix(scored)
            else:
                placed += placed_edit(self.edit(cast(EditName, part), scored, settings), settings.positions)
        return Way(name, tuple(placed), prefix)

    def together(
        self,
        ways: Sequence[Way],
        prompts: Sequence[str],
        scored: ScoredTopic | None,
        generation: GenerationSettings,
        *,
        measure: bool = True,
        keep_going: bool = False,
    ) -> Generator:
        """Generates all prompts under each way in turn, as rows of one batch; a prompt has the same seed in every way.

        Contamination is measured with the topic's scores, for the edits at this setup's hook point.

        Raises:
            PromptTooLongError, UsageError: see `tokenise_prompts`.
        """
        asked = [list(prompts)] * len(ways)
        return self._generator(ways, asked, scored, generation, measure=measure, keep_going=keep_going)

    def reply(
        self,
        ways: Sequence[Way],
        conversations: Sequence[Conversation],
        scored: ScoredTopic | None,
        generation: GenerationSettings,
    ) -> Generator:
        """The next answer in each way's own conversation, as rows of one batch with the same seed.

        The edits act on the whole conversation, at their positions; a row whose logits overflow ends with a `problem`.

        Raises:
            EditError: a way that writes words before the prompt, which a conversation has no place for.
            ModelFolderError, PromptTooLongError, UsageError: see `tokenise_prompts`.
        """
        if worded := [way.name for way in ways if way.prefix]:
            raise EditError(f"'{worded[0]}' writes before a prompt: in a chat, say it in the message or to the system")
        chat = replace(generation, chat=True)
        return self._generator(ways, [[c] for c in conversations], scored, chat, measure=True, keep_going=True)

    def _generator(
        self,
        ways: Sequence[Way],
        prompts: Sequence[Sequence[Prompt]],
        scored: ScoredTopic | None,
        generation: GenerationSettings,
        **options: bool,
    ) -> Generator:
        """All prompts of each way in turn, as rows of one batch; the figures of text without edits are its own."""
        n = len(prompts[0]) if prompts else 0
        way_of_row = torch.arange(len(ways), device=self.model.device).repeat_interleave(n)
        watched = [PlacedEdit(Watch(sae=self.sae), "generated")] if options["measure"] and scored is not None else []
        placed = [
            p if len(ways) == 1 else replace(p, rows=way_of_row == i)
            for i, way in enumerate(ways)
            for p in (way.placed or watched)
        ]
        score = None if scored is None else torch.from_numpy(scored.scores.steering_vector()).to(self.model.device)
        return Generator(
            self.model,
            [prompt for own in prompts for prompt in own],
            placed,
            generation,
            seeds=[*range(generation.seed, generation.seed + n)] * len(ways),
            prefixes=[way.prefix for way in ways for _ in range(n)],
            score=score,
            score_hook=self.sae.hook_name,
            **options,
        )

    def generator(
        self,
        edit: Edit | None,
        prompts: Sequence[str],
        scored: ScoredTopic | None,
        generation: GenerationSettings,
        positions: Positions | None = None,
    ) -> Generator:
        """Continuations under one edit, ready to stream; see `together`."""
        return self.together([Way.of(edit, positions)], prompts, scored, generation)

    def prove(self, ways: Sequence[Way], prompt: str, generation: GenerationSettings) -> list[Proof | None]:
        """Checks each way at zero strength against what it must equal; None for a way without a strength.

        At zero strength (all scores 1, no neuron clamped) swap, weight and clamp must generate what `sae` does at the
        same positions. With the SAE's error kept, and for add and vector, it must be what the unedited model does.
        """
        tried = {i: zero for i, way in enumerate(ways) if (zero := way.at_zero()) is not None}
        if not tried:
            return [None] * len(ways)
        unsteered = [ways[i].unsteered() for i in tried]
        rows = self.together([*tried.values(), *unsteered], [prompt], None, generation, measure=False).finish()
        proofs = {
            i: Proof("sae" if expected.placed else "none", zero.ids == plain.ids)
            for i, expected, zero, plain in zip(tried, unsteered, rows, rows[len(tried) :], strict=False)
        }
        return [proofs.get(i) for i in range(len(ways))]

    def figures(self, generations: Sequence[Generation], scored: ScoredTopic | None) -> list[dict[str, float]]:
        """Figures of each continuation, over its own tokens only; NaN where undefined.

        Keys: `FIGURE_NAMES` and n_tokens. Distances need a topic; contamination needs a topic and an edit. Perplexity
        is conditioned on the prompt without its prefix.
        """
        bare = [
            self.model.tokenise(g.prompt, generate=True, chat=g.chat)
            if g.prefix or g.prompt_tokens is None
            else g.prompt_tokens
            for g in generations
        ]
        perplexities = perplexity(self.model, bare, [g.ids for g in generations])
        nan = np.full(len(generations), math.nan)
        distances = percentiles = nan
        if scored is not None:
            distances = text_distances(self.embedding_model, [g.text for g in generations], scored.embeddings)
            percentiles = topic_percentile(distances, scored.scores.distances)
        return [
            {
                "distance": float(distances[i]),
                "topic_percentile": float(percentiles[i]),
                "perplexity": perplexities[i],
                **g.token_means(),
                "distinct_2": distinct_n(g.ids, 2),
                "repetition": repetition(g.ids),
                "n_tokens": float(len(g.ids)),
            }
            for i, g in enumerate(generations)
        ]

    def column(
        self,
        name: str,
        edit: Edit | None,
        prompts: Sequence[str],
        scored: ScoredTopic | None,
        generation: GenerationSettings,
        positions: Positions | None = None,
    ) -> Column:
        """Generates all continuations of one edit, with their figures."""
        return self.columns([Way.of(edit, positions, name)], prompts, scored, generation)[0]

    def columns(
        self,
        ways: Sequence[Way],
        prompts: Sequence[str],
        scored: ScoredTopic | None,
        generation: GenerationSettings,
    ) -> list[Column]:
        """Generates all continuations of each way of steering, with their figures."""
        generations = self.together(ways, prompts, scored, generation).finish()
        figures, n = self.figures(generations, scored), len(prompts)
        parts = [slice(i * n, (i + 1) * n) for i in range(len(ways))]
        return [
            Column(way.name, generations[part], figures[part], tuple(way.notes))
            for way, part in zip(ways, parts, strict=True)
        ]


def _prefix(scored: ScoredTopic | None) -> str:
    """The prefix of the baseline `prompt`; a topic of several prompts is named by its first."""
    if scored is None:
        raise EditError("'prompt' needs a topic: it writes 'Write about TOPIC: ' before the prompt")
    topic = scored.topic
    return f"Write about {topic.title.removesuffix(f' (+{len(topic.prompts) - 1})')}: "


def across_layers(
    benches: Sequence[Workbench], name: str, scored: Sequence[ScoredTopic | None], settings: SteeringSettings
) -> Way:
    """One way of steering at several layers: setups of one language model, each with its own SAE and scores.

    Run it with the first setup's `Workbench.columns`; the figures are those of that setup's edits.

    Args:
        scored: the topic as scored by each setup.

    Raises:
        UsageError: the setups have different models.
        EditError: see `Workbench.way`.
    """
    names = sorted({bench.model.name for bench in benches})
    if len(names) > 1:
        raise UsageError(f"steering at several layers needs setups of one model, not of {' and '.join(names)}")
    ways = [bench.way(name, own, settings) for bench, own in zip(benches, scored, strict=True)]
    return replace(ways[0], placed=tuple(p for way in ways for p in way.placed))


def open_workbench(setup: Setup, store: Store, *, beside: Workbench | None = None) -> Workbench:
    """Loads the setup's model, SAE and embedding model.

    Args:
        beside: an open workbench of the same language model, which both then share.

    Raises:
        ModelFolderError, AutoencoderError, UnsafeWeightsError, HubError, EmbeddingModelError: see the loaders.
        UsageError: `beside` has another model, or its SAE was trained with another `prepend_bos`.
    """
    embedding_model = load_embedding_model(setup.embedding_model)
    if beside is None:
        return Workbench(store, embedding_model, *load_setup(setup))
    model = beside.model
    if model.name != setup.model:
        raise UsageError(f"'{setup.name}' is of {setup.model}, not of {model.name}: name setups of one model")
    sae = load_sparse_autoencoder(setup, model.device)
    model.hook_site(sae.hook_name)
    if sae.prepend_bos != model.prepend_bos:
        raise UsageError(f"the SAE of '{setup.name}' has another prepend_bos; steer with one of the two alone")
    return Workbench(store, embedding_model, model, sae)
