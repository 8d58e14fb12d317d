"""What an SAE makes of tokens: pre-activations, and sparse post-activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class PreActivations(Protocol):
    """Pre-activations gamma of tokens, with the input normalisation (scale, shift) that the decoder has to undo."""

    @property
    def gamma(self) -> Float[Tensor, "... d_sae"]:
        """All of them; gated: the magnitude path."""

    @property
    def gate(self) -> Float[Tensor, "... d_sae"] | None:
        """The gate's, of a gated SAE."""

    @property
    def scale(self) -> Float[Tensor, "... 1"] | None: ...

    @property
    def shift(self) -> Float[Tensor, "... 1"] | None: ...

    def weighted(self, score: Float[Tensor, "d_sae"]) -> PreActivations:
        """A copy with each neuron's pre-activation multiplied by its score."""

    def of(self, tokens: Bool[Tensor, "token"]) -> PreActivations:
        """The part of these tokens."""

    def at(self, neurons: Int[Tensor, "... slot"]) -> Float[Tensor, "... slot"]:
        """gamma of some neurons of each token."""

    def largest(self, k: int, *, magnitude: bool = False) -> Int[Tensor, "... k"]:
        """The neurons with the k largest gamma of each token, or the k largest in magnitude, in no order."""


def largest_of(gamma: Float[Tensor, "... slot"], k: int, magnitude: bool) -> Int[Tensor, "... k"]:
    """The places of the k largest, or of the k largest in magnitude, in no order."""
    return torch.topk(gamma.abs() if magnitude else gamma, k, dim=-1, sorted=False).indices


@dataclass(frozen=True)
class Formed:
    """Pre-activations of which every one is formed."""

    gamma: Float[Tensor, "... d_sae"]
    gate: Float[Tensor, "... d_sae"] | None = None
    scale: Float[Tensor, "... 1"] | None = None
    shift: Float[Tensor, "... 1"] | None = None

    def weighted(self, score: Float[Tensor, "d_sae"]) -> Formed:
        gate = None if self.gate is None else self.gate * score
        return Formed(self.gamma * score, gate, self.scale, self.shift)

    def of(self, tokens: Bool[Tensor, "token"]) -> Formed:
        gate, scale, shift = (None if t is None else t[tokens] for t in (self.gate, self.scale, self.shift))
        return Formed(self.gamma[tokens], gate, scale, shift)

    def at(self, neurons: Int[Tensor, "... slot"]) -> Float[Tensor, "... slot"]:
        return self.gamma.gather(-1, neurons)

    def largest(self, k: int, *, magnitude: bool = False) -> Int[Tensor, "... k"]:
        return largest_of(self.gamma, k, magnitude)


@dataclass(frozen=True)
class SparseCode:
    """Post-activations as sparse (neuron, value) entries of each token; unused slots have value 0."""

    neurons: Int[Tensor, "token slot"]
    values: Float[Tensor, "token slot"]

    def dense(self, d_sae: int) -> Float[Tensor, "token d_sae"]:
        # unused slots may repeat a neuron: adding 0 is harmless, assigning 0 would not be
        return self.values.new_zeros(len(self.values), d_sae).scatter_add_(1, self.neurons, self.values)


def sparse(a: Float[Tensor, "token d_sae"]) -> SparseCode:
    """Dense post-activations as sparse entries, [token slot]."""
    slots = max(1, int((a != 0).sum(dim=-1).max())) if a.numel() else 1
    neurons = torch.topk(a.abs(), slots, dim=-1, sorted=False).indices
    return SparseCode(neurons, a.gather(-1, neurons))


@dataclass(frozen=True)
class Encoding:
    """What an SAE makes of some tokens: pre-activations, and post-activations a = sigma(gamma)."""

    pre: PreActivations
    a: SparseCode

    def of(self, tokens: Bool[Tensor, "token"]) -> Encoding:
        """The part of these tokens."""
        return Encoding(self.pre.of(tokens), SparseCode(self.a.neurons[tokens], self.a.values[tokens]))
