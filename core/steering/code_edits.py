"""The interface of an edit, and the edits of post-activations (Topic Alignment paper, sections 3.2 and A.4).

An edit is a small pure object: `apply` takes the activations of the tokens to edit and returns their replacement, and
`explain` also returns what changed. `core.steering.placement` applies edits while a model runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.errors import EditError, NeuronRangeError
from core.models.codes import Encoding, PreActivations, SparseCode
from core.models.sparse_autoencoder import SparseAutoencoder
from core.steering.selection import Reach, describe_swap, gate_scale, matched_swap


@dataclass(frozen=True)
class Outcome:
    """The activations of some tokens before and after an edit."""

    x: Float[Tensor, "token d_in"]  # before the edit
    edited: Float[Tensor, "token d_in"]  # after it


@dataclass(frozen=True)
class Seen(Outcome):
    """An outcome that changes nothing, with the post-activations that an SAE finds."""

    a: SparseCode


@dataclass(frozen=True)
class CodeOutcome(Outcome):
    """An outcome with the post-activations before and after the edit."""

    reconstructed: Float[Tensor, "token d_in"]  # x_sae = decode(a)
    a: SparseCode  # post-activations before the edit
    edited_a: SparseCode  # a', after it


class Edit(ABC):
    """An edit of the activations at one hook point."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The edit's name in tables and on the command line."""

    @property
    @abstractmethod
    def hook_name(self) -> str:
        """The hook point where the edit acts."""

    @property
    def leaves_first(self) -> bool:
        """Whether the first position of a text is left alone, wherever else the edit acts."""
        return False

    @property
    def changes(self) -> bool:
        """Whether it changes activations, and so counts as an edit."""
        return True

    @property
    def sae_used(self) -> SparseAutoencoder | None:
        """The SAE that encodes the tokens, so that edits side by side can share one encoding; None: not needed."""
        return None

    @abstractmethod
    def apply(self, x: Float[Tensor, "token d_in"], encoding: Encoding | None = None) -> Float[Tensor, "token d_in"]:
        """The activations that replace `x`.

        Args:
            encoding: of `x` by `sae_used`, where it is known already.
        """

    def explain(self, x: Float[Tensor, "token d_in"], encoding: Encoding | None = None) -> Outcome:
        """Like `apply`, with everything that the per-token figures need."""
        return Outcome(x, self.apply(x, encoding))

    def acts_on(self, x: Float[Tensor, "token d_in"]) -> Bool[Tensor, "token"] | None:
        """Mask of the tokens to edit, decided by their activations; None: all of them."""
        return None

    @abstractmethod
    def at_zero(self) -> Edit | None:
        """This edit at zero strength; None if it has no strength."""

    def unsteered(self) -> Edit | None:
        """The edit that it must equal at zero strength, token by token; None: no edit."""
        return None

    def note(self) -> str:
        """What the edit does with these settings, in a sentence or two for users."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Watch(Edit):
    """Changes nothing; tells which neurons fire in unedited text."""

    sae: SparseAutoencoder

    @property
    def name(self) -> str:
        return "none"

    @property
    def hook_name(self) -> str:
        return self.sae.hook_name

    @property
    def changes(self) -> bool:
        return False

    @property
    def sae_used(self) -> SparseAutoencoder:
        return self.sae

    def apply(self, x: Float[Tensor, "token d_in"], encoding: Encoding | None = None) -> Float[Tensor, "token d_in"]:
        return x

    def explain(self, x: Float[Tensor, "token d_in"], encoding: Encoding | None = None) -> Seen:
        return Seen(x, x, (encoding or self.sae.encoding(x)).a)

    def at_zero(self) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class CodeEdit(Edit):
    """An edit of post-activations: x' = decode(a'), where a subclass defines a'."""

    sae: SparseAutoencoder
    keep_error: bool = False  # x' = x + decode(a') - x_sae: keeps what the SAE cannot reconstruct
    reach: Reach | None = None  # edit only tokens within the topic's reach; None: all

    @property
    def hook_name(self) -> str:
        return self.sae.hook_name

    @property
    def leaves_first(self) -> bool:
        return self.sae.skip_first

    @property
    def sae_used(self) -> SparseAutoencoder:
        return self.sae

    @abstractmethod
    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        """The new post-activations a', from the pre-activations and a = sigma(gamma)."""

    def apply(self, x: Float[Tensor, "token d_in"], encoding: Encoding | None = None) -> Float[Tensor, "token d_in"]:
        known = encoding or self.sae.encoding(x)
        pre, a = known.pre, known.a
        edited_a = self.edited_code(pre, a)
        out = self.sae.decode_sparse(edited_a, pre)
        if self.keep_error:
            out = x + (out - self.sae.decode_sparse(a, pre))
        return out.to(x.dtype)

    def explain(self, x: Float[Tensor, "token d_in"], encoding: Encoding | None = None) -> CodeOutcome:
        known = encoding or self.sae.encoding(x)
        pre, a = known.pre, known.a
        edited_a = self.edited_code(pre, a)
        reconstructed, out = self.sae.decode_sparse(a, pre), self.sae.decode_sparse(edited_a, pre)
        if self.keep_error:
            out = x + (out - reconstructed)
        return CodeOutcome(x, out.to(x.dtype), reconstructed.to(x.dtype), a, edited_a)

    def acts_on(self, x: Float[Tensor, "token d_in"]) -> Bool[Tensor, "token"] | None:
        return None if self.reach is None else self.reach.holds(self.sae, x)

    def unsteered(self) -> Edit | None:
        return None if self.keep_error else Reconstruct(sae=self.sae, reach=self.reach)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(CodeEdit):
    """`sae`: x replaced by x_sae. Refuses `keep_error`, which would undo the replacement."""

    def __post_init__(self) -> None:
        if self.keep_error:
            raise EditError("'sae' is the full replacement: with the SAE's error kept it would change nothing")

    @property
    def name(self) -> str:
        return "sae"

    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        return a

    def at_zero(self) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Clamp(CodeEdit):
    """`clamp`: some neurons set to a given value on every token (Templeton 2024)."""

    neurons: Tensor  # [n], the best-scored ones
    values: Float[Tensor, "n"]  # multiplier x reference value; with `current`, the multiplier
    current: bool = False  # the reference value is the neuron's own activation on the token

    @property
    def name(self) -> str:
        return "clamp"

    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        if not len(self.neurons):
            return a
        forced = (a.neurons[..., None] == self.neurons).any(-1)
        values = self.values.expand(len(a.values), -1)
        if self.current:
            own = a.dense(self.sae.d_sae)[:, self.neurons]
            values = values * own
        neurons = self.neurons.expand(len(a.values), -1)
        return SparseCode(
            torch.cat([a.neurons, neurons], dim=-1), torch.cat([a.values.masked_fill(forced, 0.0), values], dim=-1)
        )

    def at_zero(self) -> Clamp:
        return replace(self, neurons=self.neurons[:0], values=self.values[:0])

    def note(self) -> str:
        if not len(self.neurons):
            return "Clamp forces no neuron."
        if self.current:
            named = ", ".join(f"neuron {neuron}" for neuron in self.neurons.tolist())
            return f"Clamp forces {named} to {float(self.values[0]):g} times their own activation on the token."
        forced = zip(self.neurons.tolist(), self.values.tolist(), strict=True)
        return f"Clamp forces {', '.join(f'neuron {neuron} to {value:.3g}' for neuron, value in forced)}."


@dataclass(frozen=True, kw_only=True)
class Swap(CodeEdit):
    """`swap`: reselects the active neurons by gamma * score^s; each keeps its own gamma as its value (Eq. 3).

    I = {i : sigma(gamma * score^s)_i != 0}; a'_i = gamma_i for i in I, else 0. The paper has s = 1. Scores lie close
    together, so a larger s, which is ours, changes more neurons. Figures always use the plain score.
    """

    score: Float[Tensor, "d_sae"]  # 0 where a neuron is unscored
    sharpness: float = 1.0  # s, above 0
    matched_count: bool = False  # keep as many neurons on each token as sigma did

    @property
    def name(self) -> str:
        return "swap"

    @cached_property
    def _weight(self) -> Float[Tensor, "d_sae"]:
        return self.score**self.sharpness

    @cached_property
    def _gate_scale(self) -> Float[Tensor, "d_sae"] | None:
        return gate_scale(self.sae) if self.sae.architecture == "gated" else None

    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        # the others keep as many anyway: TopK by definition, ReLU because every neuron above 0 is active
        if self.matched_count and self.sae.architecture in ("jumprelu", "gated"):
            return matched_swap(self.sae, pre, a, self._weight, self._gate_scale)
        code = self.sae.select(pre.weighted(self._weight))
        own = pre.at(code.neurons)
        return SparseCode(code.neurons, torch.where(code.values != 0, own, 0.0))

    def at_zero(self) -> Swap:
        return replace(self, score=torch.ones_like(self.score))

    def note(self) -> str:
        said = describe_swap(self.sae, int((self.score == 0).sum()), matched_count=self.matched_count)
        sharper = f" Sharpness {self.sharpness:g}: in place of the score stands score^{self.sharpness:g}."
        return said if self.sharpness == 1 else said + sharper


@dataclass(frozen=True, kw_only=True)
class Weight(CodeEdit):
    """`weight`: a' = sigma(gamma * score), the weighted values kept (the ablation of Fig. 13)."""

    score: Float[Tensor, "d_sae"]

    @property
    def name(self) -> str:
        return "weight"

    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        return self.sae.select(pre.weighted(self.score))

    def at_zero(self) -> Weight:
        return replace(self, score=torch.ones_like(self.score))


def clamp_best(
    sae: SparseAutoencoder,
    score: Float[Tensor, "d_sae"],
    reference_max: Float[Tensor, "d_sae"],
    n: int,
    multiplier: float,
    current: bool,
    keep_error: bool,
) -> Clamp:
    """`clamp` of the `n` best-scored neurons; ties go to the lower neuron number.

    Raises:
        EditError: `n` is below 0, or the multiplier is not finite.
        NeuronRangeError: `n` exceeds the number of neurons of the SAE.
    """
    if n < 0 or not torch.isfinite(torch.tensor(multiplier)):
        raise EditError(f"clamp takes n >= 0 neurons and a finite multiplier, not {n} and {multiplier}")
    if n > sae.d_sae:
        raise NeuronRangeError(n, sae.d_sae)
    best = torch.argsort(score, descending=True, stable=True)[:n]
    reference = torch.ones_like(reference_max[best]) if current else reference_max[best]
    return Clamp(sae=sae, neurons=best, values=multiplier * reference, current=current, keep_error=keep_error)
