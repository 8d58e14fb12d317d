"""Which neurons of a token swap keeps, and which tokens are within a topic's reach: from pre-activations and scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.models.sparse_autoencoder import PreActivations, SparseAutoencoder, SparseCode, sparse


def largest(values: Float[Tensor, "token d_sae"], count: Int[Tensor, "token"]) -> Bool[Tensor, "token d_sae"]:
    """On each token its `count` largest entries; one of minus infinity is never among them."""
    slots = max(1, int(count.max())) if len(count) else 1
    top, neurons = torch.topk(values, min(slots, values.shape[-1]), dim=-1)
    kept = (torch.arange(top.shape[-1], device=top.device) < count[:, None]) & (top > -torch.inf)
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, neurons, kept)


def gate_scale(sae: SparseAutoencoder) -> Float[Tensor, "d_sae"]:
    """exp(r_mag) of a gated SAE: what its gate is multiplied by to be in units of gamma."""
    assert sae.W_mag is not None
    scale: Tensor = sae.W_mag.norm(dim=0) / sae.W_enc.norm(dim=0)
    return scale.nan_to_num(nan=1.0, posinf=1.0)  # a column of zeros has no scale of its own


def matched_swap(
    sae: SparseAutoencoder, pre: PreActivations, a: SparseCode, score: Float[Tensor, "d_sae"], scale: Tensor | None
) -> SparseCode:
    """Swap that keeps as many neurons a token as sigma did, on an SAE whose neurons have thresholds of their own.

    Among gamma * score > 0 it keeps those for which gamma * score comes farthest above the neuron's threshold, or
    closest to it. With every score 1 that is sigma's own choice; where all thresholds are equal, it is the order of
    gamma * score alone. A gated neuron is a JumpReLU one whose threshold is where its gate opens (Rajamanoharan et al.
    2024, arXiv:2404.16014): gamma - threshold = exp(r_mag) * gate.

    Args:
        scale: `gate_scale`, for a gated SAE.
    """
    if scale is not None:
        assert pre.gate is not None
        margin = scale * pre.gate - pre.gamma * (1 - score)
    else:
        assert sae.threshold is not None
        margin = pre.gamma * score - sae.threshold.clamp(min=0)
    able = pre.gamma * score > 0
    kept = largest(margin.masked_fill(~able, -torch.inf), (a.values != 0).sum(-1))
    return sparse(pre.gamma.masked_fill(~kept, 0.0))


@dataclass(frozen=True)
class Reach:
    """Where a topic is within reach: a neuron of more than `least` score among the token's 2k largest gamma.

    k is the number of neurons that sigma keeps on the token. Neurons of gamma <= 0 do not count: no edit could admit
    them (but on AbsTopK, which goes by size).
    """

    score: Float[Tensor, "d_sae"]
    least: float

    def holds(self, sae: SparseAutoencoder, x: Float[Tensor, "token d_in"]) -> Bool[Tensor, "token"]:
        pre = sae.pre_activations(x)
        active = (sae.select(pre).values != 0).sum(-1)
        size = pre.gamma.abs() if sae.architecture == "abstopk" else pre.gamma
        near = largest(size.masked_fill(size <= 0, -torch.inf), 2 * active)
        return (near & (self.score > self.least)).any(-1)


_NAMES = {"standard": "Standard (ReLU)", "topk": "TopK", "abstopk": "AbsTopK", "jumprelu": "JumpReLU", "gated": "Gated"}


def describe_swap(sae: SparseAutoencoder, n_unscored: int | None = None, *, matched_count: bool = False) -> str:
    """What swap can and cannot change on this architecture, in a sentence or two for people (method: Edits).

    Args:
        n_unscored: how many neurons have score 0.
    """
    name = _NAMES[sae.architecture]
    if sae.architecture in ("topk", "abstopk"):
        already = " It keeps as many already: matched count changes nothing." if matched_count else ""
        return f"{name} SAE: swap chooses all {sae.k} active neurons of a token anew by score.{already}"
    unscored = "" if n_unscored is None else f" ({n_unscored:,} of {sae.d_sae:,} have)"
    if sae.architecture == "standard":
        already = " Matched count changes nothing: every neuron above 0 is active already." if matched_count else ""
        return f"{name} SAE: swap admits no neuron and drops only those of score 0{unscored}.{already}"
    if matched_count:
        return (
            f"{name} SAE, matched count: swap keeps as many neurons a token as the SAE did, those for which "
            f"pre-activation x score comes farthest above the neuron's threshold, or closest to it."
        )
    if sae.architecture == "jumprelu":
        return (
            "JumpReLU SAE (BatchTopK too): scores are at most 1, so swap can only drop neurons, never admit one; "
            "matched count chooses as many anew."
        )
    return (
        f"Gated SAE: swap admits no neuron and drops only those of score 0{unscored}; "
        f"matched count chooses as many anew."
    )
