"""What generation gives: a prompt's continuation, token by token, with what the edits did."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.models.tokens import TokenisedPrompt


@dataclass(frozen=True, kw_only=True)
class TokenFigures:
    """What the edit did at one generated token; None where undefined (no edit, or this token was not edited)."""

    contamination: float | None = None
    contamination_share: float | None = None
    reconstruction_delta: float | None = None
    neurons_changed: int | None = None
    own_share: float | None = None  # where nothing is edited: the contamination share of the token's own neurons
    top_neurons: tuple[tuple[int, float], ...] = ()  # (neuron, activation) after the edit, strongest first


@dataclass(kw_only=True)
class Generation:
    """One prompt with its continuation, and what the edits did."""

    prompt: str
    edit: str
    prompt_tokens: TokenisedPrompt | None = None  # of prefix and prompt; None: read from a store
    prefix: str = ""  # written before the prompt
    chat: bool | None = None  # see `GenerationSettings`
    ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    figures: list[TokenFigures] = field(default_factory=list)  # one per token
    surest: list[float] = field(default_factory=list)  # log-probability of the likeliest token, where each was chosen
    text: str = ""
    positions_edited: int = 0  # positions changed by at least one edit
    positions_run: int = 0  # positions that the model read
    problem: str = ""  # why it ended early

    def restart(self) -> None:
        """Clears the continuation."""
        self.ids, self.tokens, self.figures, self.surest, self.text, self.problem = [], [], [], [], "", ""
        self.positions_edited = self.positions_run = 0

    @property
    def confidence(self) -> float:
        """Geometric mean of the likeliest token's probability at each token, under the edits; NaN without tokens.

        It says how sure the model was while it wrote: near 1 in a loop; 1 / perplexity under the edits if greedy.
        """
        return math.exp(sum(self.surest) / len(self.surest)) if self.surest else math.nan

    def token_means(self) -> dict[str, float]:
        """Mean of each per-token figure over the tokens where it is defined; NaN if there are none."""
        names = ("contamination", "contamination_share", "reconstruction_delta", "neurons_changed")
        known = {name: [v for f in self.figures if (v := getattr(f, name)) is not None] for name in names}
        return {name: sum(values) / len(values) if values else math.nan for name, values in known.items()}
