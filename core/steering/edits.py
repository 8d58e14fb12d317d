"""Makes every edit by its name; defines the edits that add a direction to the activations (FAST paper, Eq. 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from core.errors import EditError, NeuronRangeError
from core.models.codes import Encoding
from core.models.sparse_autoencoder import SparseAutoencoder
from core.steering.code_edits import Edit, Reconstruct, Swap, Weight, clamp_best
from core.steering.selection import Reach

EditName = Literal["none", "sae", "clamp", "swap", "weight", "add", "vector"]
EDIT_NAMES: tuple[EditName, ...] = get_args(EditName)


@dataclass(frozen=True, kw_only=True)
class Vector(Edit):
    """`vector`: x + alpha * v, the same on every token; the SAE is not needed."""

    at: str  # name of the hook point
    direction: Float[Tensor, "d_in"]
    alpha: float = 1.0

    @property
    def name(self) -> str:
        return "vector"

    @property
    def hook_name(self) -> str:
        return self.at

    def apply(self, x: Float[Tensor, "token d_in"], encoding: Encoding | None = None) -> Float[Tensor, "token d_in"]:
        return x + (self.alpha * self.direction).to(x)

    def at_zero(self) -> Vector:
        return replace(self, alpha=0.0)

    def note(self) -> str:
        return (
            f"Vector adds {self.alpha:g} times the difference in means, which has length {self.direction.norm():.3g}."
        )


@dataclass(frozen=True, kw_only=True)
class Add(Vector):
    """`add`: x + sum_i alpha_i * W_dec[i] (FAST paper, Eq. 8), decoder rows not normalised; see `add_neurons`."""

    alphas: tuple[tuple[int, float], ...] = ()  # (neuron, alpha) of each decoder row in `direction`

    @property
    def name(self) -> str:
        return "add"

    def note(self) -> str:
        rows = ", ".join(f"{alpha:g} times that of neuron {neuron}" for neuron, alpha in self.alphas)
        return f"Add adds decoder rows: {rows}."


def add_neurons(sae: SparseAutoencoder, alphas: Mapping[int, float]) -> Add:
    """`add` of one or several neurons, each with its own alpha, in units of its decoder row.

    Raises:
        NeuronRangeError: the SAE has no such neuron.
        EditError: no neuron, or an alpha that is not finite.
    """
    if not alphas:
        raise EditError("'add' needs at least one neuron, with its alpha")
    for neuron, alpha in alphas.items():
        if not 0 <= neuron < sae.d_sae:
            raise NeuronRangeError(neuron, sae.d_sae)
        _check_alpha(alpha)
    rows = sae.W_dec[list(alphas)]
    strengths = torch.tensor(list(alphas.values()), dtype=rows.dtype, device=rows.device)
    return Add(at=sae.hook_name, direction=strengths @ rows, alphas=tuple(alphas.items()))


def _check_alpha(alpha: float) -> None:
    if not math.isfinite(alpha):
        raise EditError(f"alpha is a finite number, not {alpha}")


def add_direction(sae: SparseAutoencoder, direction: object, alpha: float) -> Vector:
    """`vector` with a direction [d_in], at the SAE's hook point.

    Raises:
        EditError: the direction is missing, of another width or not finite, or alpha is not finite.
    """
    if direction is None:
        raise EditError("'vector' needs a topic: its prompts give the direction")
    _check_alpha(alpha)
    tensor = torch.as_tensor(direction, dtype=sae.W_dec.dtype, device=sae.W_dec.device)
    if tensor.shape != (sae.d_in,) or not tensor.isfinite().all():
        raise EditError(f"a direction is {sae.d_in} finite numbers, as wide as the activations at {sae.hook_name}")
    return Vector(at=sae.hook_name, direction=tensor, alpha=alpha)


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
    sharpness: float = 1.0,
    n: int = 5,
    multiplier: float = 10.0,
    current: bool = False,
    reach: float | None = None,
    alphas: Mapping[int, float] | None = None,
    direction: object = None,
    alpha: float = 1.0,
) -> Edit | None:
    """Makes the edit of that name; None for `none`.

    Args:
        score: [d_sae], 0 for unscored neurons; needed by clamp, swap and weight.
        reference_max: [d_sae], each neuron's largest activation over P_ref; needed by clamp.
        keep_error: clamp, swap and weight keep the SAE's error, x' = x + decode(a') - x_sae.
        matched_count: swap keeps as many neurons on each token as the SAE did.
        sharpness: swap chooses by gamma * score^sharpness.
        n: number of best-scored neurons that clamp sets.
        multiplier: clamp sets a neuron to this multiple of its reference value.
        current: clamp's reference value is the neuron's own activation on the token, not `reference_max`.
        reach: clamp, swap and weight edit only tokens where a neuron with a higher score is within reach (`Reach`).
        alphas: the neurons of `add`, each with its alpha.
        direction: [d_in]; `vector` adds it `alpha` times.

    Raises:
        EditError: the name is unknown, or what the edit needs is missing or of the wrong shape.
        NeuronRangeError: see `add_neurons` and `clamp_best`.
    """
    if name not in EDIT_NAMES:
        raise EditError(f"no edit '{name}'; there are {', '.join(EDIT_NAMES)}")
    if name == "none":
        return None
    if name == "sae":
        return Reconstruct(sae=sae)  # always the full replacement, whatever keep_error says
    if name == "add":
        return add_neurons(sae, alphas or {})
    if name == "vector":
        return add_direction(sae, direction, alpha)
    if score is None:
        raise EditError(f"'{name}' needs a topic: its scores choose the neurons")
    scores = _score_tensor(score, sae)
    within = None if reach is None else Reach(scores, reach)
    if name == "swap":
        if not (math.isfinite(sharpness) and sharpness > 0):
            raise EditError(f"sharpness is a finite number above 0, not {sharpness}; 1 is the paper's")
        return Swap(
            sae=sae,
            score=scores,
            sharpness=sharpness,
            matched_count=matched_count,
            keep_error=keep_error,
            reach=within,
        )
    if name == "weight":
        return Weight(sae=sae, score=scores, keep_error=keep_error, reach=within)
    if reference_max is None:
        raise EditError("'clamp' needs the neurons' largest activations over the reference set")
    clamp = clamp_best(sae, scores, _score_tensor(reference_max, sae), n, multiplier, current, keep_error)
    return replace(clamp, reach=within)
