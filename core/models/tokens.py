"""Tokenised prompts, with their special tokens marked by position."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A batch of tokenised prompts."""

    ids: Int[Tensor, "prompt pos"]
    attention: Bool[Tensor, "prompt pos"]  # False: padding
    special: Bool[Tensor, "prompt pos"]  # BOS and template tokens, by position; also padding
    roles: Int[Tensor, "prompt pos"] | None = field(default=None, kw_only=True)  # `ROLES` numbers; None: no chat

    @property
    def position_ids(self) -> Int[Tensor, "prompt pos"]:
        """Positions in each prompt, from 0, with padding left out."""
        return (self.attention.long().cumsum(-1) - 1).clamp(min=0)


@dataclass(frozen=True)
class TokenisedPrompt:
    """One prompt: its token ids, and which of them are special."""

    ids: list[int]
    special: list[bool]
    roles: list[str] = field(default_factory=list)  # in a chat: role of each token's message; '': template token
