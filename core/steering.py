"""Edits of a language model at a hook point, through an SAE (Topic Alignment paper, sections 3.2 and A.4).

An edit is a small pure object: `apply` takes the activations of the tokens to edit and returns what replaces them,
with what changed. `steered` puts edits in place for the running thread and takes them away again, whatever happens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.errors import EditError, NeuronRangeError
from core.language_model import LanguageModel
from core.sparse_autoencoder import PreActivations, SparseAutoencoder, SparseCode

EditName = Literal["none", "sae", "clamp", "swap", "weight"]
EDIT_NAMES: tuple[EditName, ...] = get_args(EditName)
Positions = Literal["all", "content", "generated", "prompt", "special"]
# special tokens are left as they are, except where the whole layer is replaced by its reconstruction
DEFAULT_POSITIONS: dict[str, Positions] = {"sae": "all", "clamp": "content", "swap": "content", "weight": "content"}


@dataclass(frozen=True)
class Outcome:
    """What an edit did to some tokens."""

    x: Float[Tensor, "token d_in"]  # the activation before
    edited: Float[Tensor, "token d_in"]  # and after
    reconstructed: Float[Tensor, "token d_in"]  # x_sae = decode(a)
    a: SparseCode  # post-activations before
    edited_a: SparseCode  # and after


@dataclass(frozen=True, kw_only=True)
class Edit(ABC):
    """An edit of post-activations; a subclass says which ones replace `a`."""

    sae: SparseAutoencoder
    keep_error: bool = False  # x' = x + decode(a') - x_sae: keeps what the SAE cannot reconstruct

    @property
    @abstractmethod
    def name(self) -> str:
        """The edit's name in tables and on the command line."""

    @abstractmethod
    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        """a', from the pre-activations and a = sigma(gamma)."""

    def apply(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        """The activations that replace `x`."""
        pre = self.sae.pre_activations(x)
        a = self.sae.select(pre)
        edited_a = self.edited_code(pre, a)
        out = self.sae.decode_sparse(edited_a, pre)
        if self.keep_error:
            out = x + (out - self.sae.decode_sparse(a, pre))
        return out.to(x.dtype)

    def explain(self, x: Float[Tensor, "token d_in"]) -> Outcome:
        """`apply`, with everything that the per-token figures need."""
        pre = self.sae.pre_activations(x)
        a = self.sae.select(pre)
        edited_a = self.edited_code(pre, a)
        reconstructed, out = self.sae.decode_sparse(a, pre), self.sae.decode_sparse(edited_a, pre)
        if self.keep_error:
            out = x + (out - reconstructed)
        return Outcome(x, out.to(x.dtype), reconstructed.to(x.dtype), a, edited_a)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Edit):
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
class Clamp(Edit):
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
class Swap(Edit):
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
class Weight(Edit):
    """`weight`: a' = sigma(gamma * score), the weighted values kept (the ablation of Fig. 13)."""

    score: Float[Tensor, "d_sae"]

    @property
    def name(self) -> str:
        return "weight"

    def edited_code(self, pre: PreActivations, a: SparseCode) -> SparseCode:
        return self.sae.select(pre.weighted(self.score))


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


@dataclass(frozen=True)
class PlacedEdit:
    """An edit at its positions, on all rows of the batch or on some."""

    edit: Edit
    positions: Positions
    rows: Bool[Tensor, "prompt"] | None = None  # None: every row


@dataclass
class Recorder:
    """What the edits of one forward pass did: counted always, explained where asked (a second decode a token)."""

    explain: bool = False
    edited: list[Bool[Tensor, "prompt pos"]] = field(default_factory=list)  # tokens, one mask an edit
    outcomes: list[Outcome] = field(default_factory=list)  # of those tokens, where explained


def editable(
    positions: Positions,
    special: Bool[Tensor, "prompt pos"],
    generated: Bool[Tensor, "prompt pos"],
    attention: Bool[Tensor, "prompt pos"],
) -> Bool[Tensor, "prompt pos"]:
    """Which tokens of a forward pass an edit at these positions touches; never padding."""
    match positions:
        case "all":
            return attention
        case "content":
            return attention & ~special
        case "generated":
            return attention & generated
        case "prompt":
            return attention & ~generated & ~special
        case "special":
            return attention & special
    raise EditError(f"no positions '{positions}'; there are {', '.join(get_args(Positions))}")


def _apply(x: Tensor, edit: Edit, mask: Bool[Tensor, "prompt pos"], recorder: Recorder) -> None:
    """Edits the masked tokens of `x` in place."""
    if not mask.any():
        return
    recorder.edited.append(mask)
    if recorder.explain:
        outcome = edit.explain(x[mask])
        recorder.outcomes.append(outcome)
        x[mask] = outcome.edited
    else:
        x[mask] = edit.apply(x[mask])


@contextmanager
def steered(
    model: LanguageModel,
    placed: Sequence[PlacedEdit],
    *,
    special: Bool[Tensor, "prompt pos"],
    generated: Bool[Tensor, "prompt pos"],
    attention: Bool[Tensor, "prompt pos"],
    recorder: Recorder | None = None,
) -> Iterator[None]:
    """Forward passes of this thread run under the edits; several at one hook point act in the order given.

    Args:
        special, generated, attention: of the tokens of this forward pass.
        recorder: told what each edit did.
    """
    told = recorder if recorder is not None else Recorder()

    def intervention(edits: list[PlacedEdit]) -> Callable[[Tensor], Tensor]:
        def edit_all(x: Tensor) -> Tensor:
            out = x.clone()
            for p in edits:
                mask = editable(p.positions, special, generated, attention)
                _apply(out, p.edit, mask if p.rows is None else mask & p.rows[:, None], told)
            return out

        return edit_all

    by_hook: dict[str, list[PlacedEdit]] = {}
    for p in placed:
        by_hook.setdefault(p.edit.sae.hook_name, []).append(p)
    with model.intervene({hook_name: intervention(edits) for hook_name, edits in by_hook.items()}):
        yield
