"""Edits of a language model's activations, most through an SAE (Topic Alignment paper, sections 3.2 and A.4).

An edit is a small pure object: `apply` takes the activations of the tokens to edit and returns what replaces them,
`explain` says what changed as well. `core.steering` puts edits in place while a model runs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import EditError, NeuronRangeError
from core.sparse_autoencoder import PreActivations, SparseAutoencoder, SparseCode

EditName = Literal["none", "sae", "clamp", "swap", "weight"]  # those that a topic and its SAE make
EDIT_NAMES: tuple[EditName, ...] = get_args(EditName)


@dataclass(frozen=True)
class Outcome:
    """What an edit did to some tokens."""

    x: Float[Tensor, "token d_in"]  # the activation before
    edited: Float[Tensor, "token d_in"]  # and after


@dataclass(frozen=True)
class CodeOutcome(Outcome):
    """What an edit of post-activations did to some tokens."""

    reconstructed: Float[Tensor, "token d_in"]  # x_sae = decode(a)
    a: SparseCode  # post-activations before
    edited_a: SparseCode  # and after


class Edit(ABC):
    """An edit of the activations at one hook point."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The edit's name in tables and on the command line."""

    @property
    @abstractmethod
    def hook_name(self) -> str:
        """Where it acts."""

    @abstractmethod
    def apply(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        """The activations that replace `x`."""

    def explain(self, x: Float[Tensor, "token d_in"]) -> Outcome:
        """`apply`, with everything that the per-token figures need."""
        return Outcome(x, self.apply(x))


@dataclass(frozen=True, kw_only=True)
class CodeEdit(Edit):
    """An edit of post-activations; a subclass says which ones replace `a`."""

    sae: SparseAutoencoder
    keep_error: bool = False  # x' = x + decode(a') - x_sae: keeps what the SAE cannot reconstruct

    @property
    def hook_name(self) -> str:
        return self.sae.hook_name

    @abstractmethod
    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        """a', from the pre-activations and a = sigma(gamma)."""

    def apply(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        pre = self.sae.pre_activations(x)
        a = self.sae.select(pre)
        edited_a = self.edited_code(pre, a)
        out = self.sae.decode_sparse(edited_a, pre)
        if self.keep_error:
            out = x + (out - self.sae.decode_sparse(a, pre))
        return out.to(x.dtype)

    def explain(self, x: Float[Tensor, "token d_in"]) -> CodeOutcome:
        pre = self.sae.pre_activations(x)
        a = self.sae.select(pre)
        edited_a = self.edited_code(pre, a)
        reconstructed, out = self.sae.decode_sparse(a, pre), self.sae.decode_sparse(edited_a, pre)
        if self.keep_error:
            out = x + (out - reconstructed)
        return CodeOutcome(x, out.to(x.dtype), reconstructed.to(x.dtype), a, edited_a)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(CodeEdit):
    """`sae`: x replaced by x_sae. Keeping the error would undo it, so this edit never does."""

    def __post_init__(self) -> None:
        if self.keep_error:
            raise EditError("'sae' is the full replacement: with the SAE's error kept it would change nothing")

    @property
    def name(self) -> str:
        return "sae"

    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        return a


@dataclass(frozen=True, kw_only=True)
class Clamp(CodeEdit):
    """`clamp`: some neurons forced to a value on every token (Templeton 2024)."""

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


@dataclass(frozen=True, kw_only=True)
class Swap(CodeEdit):
    """`swap`: the active neurons chosen anew by gamma * score, each keeping its own gamma (Eq. 3).

    I = {i : sigma(gamma * score)_i != 0}; a'_i = gamma_i for i in I, else 0.
    """

    score: Float[Tensor, "d_sae"]  # 0 where a neuron is unscored
    matched_count: bool = False  # keep as many neurons as sigma did, those of largest gamma * score > 0

    @property
    def name(self) -> str:
        return "swap"

    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        weighted = pre.weighted(self.score)
        code = _largest(weighted.gamma, (a.values != 0).sum(-1)) if self.matched_count else self.sae.select(weighted)
        own = pre.gamma.gather(-1, code.neurons)
        return SparseCode(code.neurons, torch.where(code.values != 0, own, 0.0))


@dataclass(frozen=True, kw_only=True)
class Weight(CodeEdit):
    """`weight`: a' = sigma(gamma * score), the weighted values kept (the ablation of Fig. 13)."""

    score: Float[Tensor, "d_sae"]

    @property
    def name(self) -> str:
        return "weight"

    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        return self.sae.select(pre.weighted(self.score))


@dataclass(frozen=True, kw_only=True)
class Vector(Edit):
    """`vector`: x + alpha * v, the same on every token; no encode is needed."""

    at: str  # hook name
    direction: Float[Tensor, "d_in"]
    alpha: float = 1.0

    @property
    def name(self) -> str:
        return "vector"

    @property
    def hook_name(self) -> str:
        return self.at

    def apply(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        return x + (self.alpha * self.direction).to(x)


@dataclass(frozen=True, kw_only=True)
class Add(Vector):
    """`add`: x + sum_i alpha_i * W_dec[i] (FAST paper, Eq. 8), decoder rows as the SAE has them; see `add_neurons`."""

    @property
    def name(self) -> str:
        return "add"


def add_neurons(sae: SparseAutoencoder, alphas: Mapping[int, float]) -> Add:
    """`add` of one or several neurons, each with its own alpha, in units of its decoder row.

    Raises:
        NeuronRangeError: the SAE has no such neuron.
        EditError: an alpha that is no finite number.
    """
    for neuron, alpha in alphas.items():
        if not 0 <= neuron < sae.d_sae:
            raise NeuronRangeError(neuron, sae.d_sae)
        if not math.isfinite(alpha):
            raise EditError(f"alpha is a finite number, not {alpha}")
    rows = sae.W_dec[list(alphas)]
    strengths = torch.tensor(list(alphas.values()), dtype=rows.dtype, device=rows.device)
    return Add(at=sae.hook_name, direction=strengths @ rows)


def _largest(weighted: Float[Tensor, "token d_sae"], count: Tensor) -> SparseCode:
    """On each token its `count` largest positive entries."""
    slots = max(1, int(count.max())) if len(count) else 1
    values, neurons = torch.topk(weighted, slots, dim=-1)
    kept = (torch.arange(slots, device=values.device) < count[:, None]) & (values > 0)
    return SparseCode(neurons, values.where(kept, 0.0))


def _score_tensor(score: object, sae: SparseAutoencoder) -> Float[Tensor, "d_sae"]:
    tensor = torch.as_tensor(score, dtype=sae.W_dec.dtype, device=sae.W_dec.device)
    if tensor.shape != (sae.d_sae,):
        raise EditError(f"values for {tensor.numel()} neurons do not fit an SAE of {sae.d_sae}")
    if not tensor.isfinite().all():
        raise EditError("every neuron needs a finite value; one without a score counts as 0")
    return tensor


def make_edit(
    name: EditName,
    sae: SparseAutoencoder,
    *,
    score: object = None,
    reference_max: object = None,
    keep_error: bool = False,
    matched_count: bool = False,
    n: int = 5,
    multiplier: float = 10.0,
    current: bool = False,
) -> Edit | None:
    """The edit of that name; None for `none`.

    Args:
        score: one a neuron, 0 where unscored; needed by clamp, swap and weight.
        reference_max: each neuron's largest activation over P_ref; needed by clamp.
        n: how many of the best-scored neurons clamp forces.
        multiplier: clamp's value, times the reference value.
        current: clamp's reference value is the neuron's own activation on the token.

    Raises:
        EditError: an unknown name, or what the edit needs is missing or of the wrong size.
    """
    if name not in EDIT_NAMES:
        raise EditError(f"no edit '{name}'; there are {', '.join(EDIT_NAMES)}")
    if name == "none":
        return None
    if name == "sae":
        return Reconstruct(sae=sae)  # the full replacement, with or without keep_error elsewhere
    if score is None:
        raise EditError(f"'{name}' needs a topic: its scores choose the neurons")
    scores = _score_tensor(score, sae)
    if name == "swap":
        return Swap(sae=sae, score=scores, matched_count=matched_count, keep_error=keep_error)
    if name == "weight":
        return Weight(sae=sae, score=scores, keep_error=keep_error)
    if reference_max is None:
        raise EditError("'clamp' needs the neurons' largest activations over the reference set")
    return clamp_best(sae, scores, _score_tensor(reference_max, sae), n, multiplier, current, keep_error)


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
        EditError: `n` below 0, or a multiplier that is no number.
        NeuronRangeError: more neurons than the SAE has.
    """
    if n < 0 or not torch.isfinite(torch.tensor(multiplier)):
        raise EditError(f"clamp takes n >= 0 neurons and a finite multiplier, not {n} and {multiplier}")
    if n > sae.d_sae:
        raise NeuronRangeError(n, sae.d_sae)
    best = torch.argsort(score, descending=True, stable=True)[:n]
    reference = torch.ones_like(reference_max[best]) if current else reference_max[best]
    return Clamp(sae=sae, neurons=best, values=multiplier * reference, current=current, keep_error=keep_error)


def describe_swap(sae: SparseAutoencoder, score: object = None, *, matched_count: bool = False) -> str:
    """What swap can and cannot change on this architecture, in a sentence for people (method: Edits)."""
    if matched_count:
        return f"Swap keeps as many neurons a token as the {sae.architecture} SAE did, chosen anew by score."
    if sae.architecture in ("topk", "abstopk"):
        return f"{sae.architecture} SAE: swap chooses all {sae.k} active neurons of a token anew by score."
    if sae.architecture == "jumprelu":
        return (
            "JumpReLU SAE (BatchTopK too): scores are at most 1, so swap can only drop neurons, never admit one; "
            "matched count chooses as many anew."
        )
    dropped = "" if score is None else f" ({int((_score_tensor(score, sae) == 0).sum())} of {sae.d_sae} have)"
    return (
        f"{sae.architecture} SAE: swap admits no neuron and drops only those of score 0{dropped}; "
        "matched count chooses as many anew."
    )
