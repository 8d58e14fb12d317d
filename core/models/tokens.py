"""Prompts as tokens, and which of them are special by their position."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """A batch of tokenised prompts."""

    ids: Int[Tensor, "prompt pos"]
    attention: Bool[Tensor, "prompt pos"]  # False: padding
    special: Bool[Tensor, "prompt pos"]  # beginning-of-text and template tokens, by position; padding too
    roles: Int[Tensor, "prompt pos"] | None = field(default=None, kw_only=True)  # numbers of `ROLES`; None: no chat

    @property
    def position_ids(self) -> Int[Tensor, "prompt pos"]:
        return (self.attention.long().cumsum(-1) - 1).clamp(min=0)


@dataclass(frozen=True)
class TokenisedPrompt:
    """One prompt: its ids, and which of them are special by their position."""

    ids: list[int]
    special: list[bool]
    roles: list[str] = field(default_factory=list)  # of a chat: whose message each token is part of; '': the template's
