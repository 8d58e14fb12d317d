"""Steered decoding: key-value cache, batched, seeded per row, streamed token by token.

We do not use `transformers.generate`, because an edit's context must close between two tokens (another thread may steer
the same model), every row needs its own seeded generator, independent of the rest of the batch, and each token records
what the edit did there. Without an edit the output equals that of `transformers.generate` (tested).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.errors import EditError, PromptTooLongError, UsageError
from core.models.codes import SparseCode
from core.models.language_model import LanguageModel
from core.models.tokens import TokenisedPrompt, Tokens
from core.settings import GenerationSettings
from core.steering.code_edits import CodeOutcome, Seen
from core.steering.generated import Generation, TokenFigures
from core.steering.metrics import contamination, contamination_share, neurons_changed, reconstruction_delta
from core.steering.placement import PlacedEdit, Recorder, steered
from core.text.chat_template import ROLES, Conversation

Prompt = str | Conversation  # a text, or a conversation that ends with what its user says

_TOP_NEURONS = 5  # neurons kept per token for display
_TOO_STRONG = "the edit is too strong: the model's logits are not finite any more; lower its multiplier or alpha"


def tokenise_prompts(
    model: LanguageModel, prompts: Sequence[Prompt], settings: GenerationSettings, prefixes: Sequence[str] | None = None
) -> list[TokenisedPrompt]:
    """Tokenises the prompts, each after its prefix; in a chat, up to the header of the assistant's turn.

    Raises:
        PromptTooLongError: a prompt leaves no room in the context for the new tokens.
        UsageError: a prompt is empty, or a conversation does not end with what its user says.
        ModelFolderError: a conversation, and the tokenizer has no chat template.
    """
    tokenised = []
    for prompt, prefix in zip(prompts, prefixes or [""] * len(prompts), strict=True):
        if not _last_words(prompt).strip():
            raise UsageError("the prompt is empty; type at least one word")
        if isinstance(prompt, str):
            tokens = model.tokenise(prefix + prompt, generate=True, chat=settings.chat)
        else:
            tokens = model.tokenise_chat(prompt, generate=True)
        if len(tokens.ids) + settings.max_new_tokens > model.n_context:
            raise PromptTooLongError(len(tokens.ids), settings.max_new_tokens, model.n_context)
        tokenised.append(tokens)
    return tokenised


def _last_words(prompt: Prompt) -> str:
    """The text of a prompt, or what the user says last in a conversation."""
    if isinstance(prompt, str):
        return prompt
    if not prompt or prompt[-1]["role"] != "user":
        raise UsageError("a conversation that is answered ends with a message of the user")
    return prompt[-1]["content"]


def choose_tokens(
    logits: Float[Tensor, "prompt vocabulary"], settings: GenerationSettings, generators: Sequence[torch.Generator]
) -> Int[Tensor, "prompt"]:
    """The next token of each row: the likeliest, or one drawn from the `top_k` likeliest."""
    if settings.greedy:
        return logits.argmax(-1)
    logits = logits.float() / settings.temperature
    kth = torch.topk(logits, min(settings.top_k, logits.shape[-1])).values[..., -1:]
    probabilities = logits.masked_fill(logits < kth, -torch.inf).softmax(-1).cpu()
    drawn = [torch.multinomial(row, 1, generator=g) for row, g in zip(probabilities, generators, strict=True)]
    return torch.cat(drawn).to(logits.device)


class _Decoder:
    """Runs the forward passes of one batch under the edits, with a growing key-value cache."""

    def __init__(self, model: LanguageModel, prompts: Sequence[TokenisedPrompt], placed: Sequence[PlacedEdit]) -> None:
        self.model, self.placed = model, placed
        self.cache = model.new_cache()
        self.tokens = model.pad(prompts, side="left")
        self.attention = self.tokens.attention
        self.positions_run = self.attention.sum(-1)
        self.positions_edited = torch.zeros_like(self.positions_run)

    def prompt(self) -> Float[Tensor, "prompt vocabulary"]:
        """Reads the prompts; returns the logits of the first new token."""
        return self._forward(self.tokens, generated=False, recorder=Recorder())

    def step(
        self, ids: Int[Tensor, "prompt"], alive: Bool[Tensor, "prompt"], recorder: Recorder
    ) -> Float[Tensor, "prompt vocabulary"]:
        """Reads one new token per row; returns the logits of the next."""
        self.positions_run = self.positions_run + alive
        own = None if self.tokens.roles is None else torch.full_like(ids[:, None], ROLES["assistant"])
        new = Tokens(ids[:, None], alive[:, None], torch.zeros_like(alive[:, None]), roles=own)
        self.attention = torch.cat([self.attention, torch.ones_like(alive[:, None])], dim=-1)
        return self._forward(new, generated=True, recorder=recorder)

    def _forward(self, new: Tokens, *, generated: bool, recorder: Recorder) -> Float[Tensor, "prompt vocabulary"]:
        positions = (self.attention.long().cumsum(-1) - 1).clamp(min=0)[:, -new.ids.shape[1] :]
        made = torch.full_like(new.attention, generated)
        whole = Tokens(new.ids, self.attention, new.special)
        with steered(
            self.model,
            self.placed,
            special=new.special,
            generated=made,
            attention=new.attention,
            roles=new.roles,
            recorder=recorder,
        ):
            logits = self.model.forward(whole, self.cache, position_ids=positions, last_only=True)
        edits = zip(recorder.placed, recorder.edited, strict=True)
        if changed := [mask for placed, mask in edits if placed.edit.changes]:
            self.positions_edited = self.positions_edited + torch.stack(changed).any(0).sum(-1)
        return logits[:, -1]


def _figures(
    recorder: Recorder, n_rows: int, score: Float[Tensor, "d_sae"] | None, hook_name: str | None
) -> list[TokenFigures]:
    """For each row, what the last edit through an SAE at the hook point (None: any) did to this step's token."""
    figures = [TokenFigures()] * n_rows
    # outcomes are empty unless the recorder explains
    for placed, mask, outcome in zip(recorder.placed, recorder.edited, recorder.outcomes, strict=False):
        if hook_name not in (None, placed.edit.hook_name):
            continue
        if isinstance(outcome, CodeOutcome):
            told = _edited_figures(outcome, score)
        elif isinstance(outcome, Seen):
            told = _own_figures(outcome, score)
        else:
            continue
        for row, one in zip(mask.any(-1).nonzero()[:, 0].tolist(), told, strict=True):
            figures[row] = one
    return figures


def _edited_figures(outcome: CodeOutcome, score: Float[Tensor, "d_sae"] | None) -> list[TokenFigures]:
    edited_a = outcome.edited_a
    changed = neurons_changed(outcome, int(max(outcome.a.neurons.max(), edited_a.neurons.max())) + 1)
    total = share = [None] * len(changed)
    if score is not None:
        total, share = contamination(edited_a, score).tolist(), contamination_share(edited_a, score).tolist()
    return [
        TokenFigures(
            contamination=total[i],
            contamination_share=share[i],
            reconstruction_delta=delta,
            neurons_changed=n,
            top_neurons=top,
        )
        for i, (delta, n, top) in enumerate(
            zip(reconstruction_delta(outcome).tolist(), changed.tolist(), _top_neurons(edited_a), strict=True)
        )
    ]


def _own_figures(outcome: Seen, score: Float[Tensor, "d_sae"] | None) -> list[TokenFigures]:
    own = [None] * len(outcome.x) if score is None else contamination_share(outcome.a, score).tolist()
    tops = _top_neurons(outcome.a)
    return [TokenFigures(own_share=share, top_neurons=top) for share, top in zip(own, tops, strict=True)]


def _top_neurons(a: SparseCode) -> list[tuple[tuple[int, float], ...]]:
    """The strongest (neuron, activation) pairs of each token."""
    places = a.values.abs().topk(min(_TOP_NEURONS, a.values.shape[-1]), dim=-1).indices
    values, neurons = a.values.gather(-1, places).tolist(), a.neurons.gather(-1, places).tolist()
    return [
        tuple((n, v) for n, v in zip(own, activations, strict=True) if v)
        for own, activations in zip(neurons, values, strict=True)
    ]


def edit_name(placed: Sequence[PlacedEdit], row: int) -> str:
    """Names of the edits that act on a row, joined by `+`; `none` if there are none."""
    acting = [p.edit.name for p in placed if p.edit.changes and (p.rows is None or p.rows[row])]
    return "+".join(acting) or "none"


class Generator:
    """Continues prompts under edits; iterate over it to stream tokens, or call `finish`."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Prompt],
        placed: Sequence[PlacedEdit],
        settings: GenerationSettings,
        *,
        seeds: Sequence[int] | None = None,
        prefixes: Sequence[str] | None = None,
        score: Float[Tensor, "d_sae"] | None = None,
        score_hook: str | None = None,
        measure: bool = True,
        keep_going: bool = False,
    ) -> None:
        """
        Args:
            placed: the edits, on all rows or on some; without any the model is untouched.
            seeds: one per row; by default the settings' seed, and one more for each further row.
            prefixes: one per row, written before its prompt; by default none.
            score: [d_sae]; needed for contamination.
            score_hook: measure only edits at this hook point, whose SAE the scores belong to; None: at any.
            measure: fill in each token's figures; costs a second SAE decode per token.
            keep_going: a row whose logits overflow ends with a `problem`, instead of an error that ends all rows.

        Raises:
            PromptTooLongError, UsageError: see `tokenise_prompts`.
        """
        self.settings, self.model, self.placed = settings, model, placed
        self.score, self.score_hook, self.keep_going = score, score_hook, keep_going
        self.seeds = seeds if seeds is not None else range(settings.seed, settings.seed + len(prompts))
        self.measure = measure and bool(placed)
        before = prefixes or [""] * len(prompts)
        self._tokenised = tokenise_prompts(model, prompts, settings, before)
        self.generations = [
            Generation(
                prompt=_last_words(prompt),
                prefix=prefix,
                chat=settings.chat,
                edit=edit_name(placed, row),
                prompt_tokens=tokens,
            )
            for row, (prompt, prefix, tokens) in enumerate(zip(prompts, before, self._tokenised, strict=True))
        ]

    def __iter__(self) -> Iterator[list[Generation]]:
        """Generates from the start, and yields the growing continuations after every token.

        Raises:
            EditError: an edit is so strong that the model's logits overflow.
        """
        settings, rows = self.settings, self.generations
        for generation in rows:
            generation.restart()
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        decoder = _Decoder(self.model, self._tokenised, self.placed)
        ends = set(self.model.end_token_ids)
        alive = torch.ones(len(rows), dtype=torch.bool, device=self.model.device)
        logits = decoder.prompt()
        self._count(decoder)
        for number in range(settings.max_new_tokens):
            logits, alive = self._stopped(logits, alive)
            ids = choose_tokens(logits, settings, generators)
            surest = (logits.amax(-1) - logits.logsumexp(-1)).tolist()
            alive = alive & torch.tensor([int(i) not in ends for i in ids], device=alive.device)
            if not alive.any():
                break
            last = number + 1 == settings.max_new_tokens
            recorder = Recorder(explain=self.measure)
            if not last or self.measure:  # the last token is read only to measure the edit there
                logits = decoder.step(ids, alive, recorder)
            figures = _figures(recorder, len(rows), self.score, self.score_hook)
            self._append(ids.tolist(), alive.tolist(), figures, surest)
            self._count(decoder)
            yield rows

    def _stopped(
        self, logits: Float[Tensor, "prompt vocabulary"], alive: Bool[Tensor, "prompt"]
    ) -> tuple[Float[Tensor, "prompt vocabulary"], Bool[Tensor, "prompt"]]:
        """Ends the rows whose logits overflow; zeros replace them, and what is drawn from those is not used."""
        finite = (logits < torch.inf).all(-1)  # False for NaN too
        if finite.all():
            return logits, alive
        overflowed = (alive & ~finite).nonzero()[:, 0].tolist()
        if overflowed and not self.keep_going:
            raise EditError(_TOO_STRONG)
        for row in overflowed:
            self.generations[row].problem = _TOO_STRONG
        return logits.masked_fill(~finite[:, None], 0.0), alive & finite

    def _count(self, decoder: _Decoder) -> None:
        for row, generation in enumerate(self.generations):
            generation.positions_run = int(decoder.positions_run[row])
            generation.positions_edited = int(decoder.positions_edited[row])

    def _append(self, ids: list[int], alive: list[bool], figures: list[TokenFigures], surest: list[float]) -> None:
        for row, generation in enumerate(self.generations):
            if alive[row]:
                generation.ids.append(ids[row])
                generation.figures.append(figures[row])
                generation.surest.append(surest[row])
                generation.text = self.model.tokenizer.decode(generation.ids)
                generation.tokens.append(self.model.token_strings([ids[row]])[0])

    def finish(self) -> list[Generation]:
        """Generates to the end, and returns the continuations."""
        for _ in self:
            pass
        return self.generations
