"""Which neurons swap keeps, and which tokens are within a topic's reach, decided by pre-activations and scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.models.codes import PreActivations, SparseCode, sparse
from core.models.sparse_autoencoder import SparseAutoencoder


def largest(values: Float[Tensor, "token d_sae"], count: Int[Tensor, "token"]) -> Bool[Tensor, "token d_sae"]:
    """Mask of the `count` largest entries on each token; minus infinity is never among them."""
    slots = max(1, int(count.max())) if len(count) else 1
    top, neurons = torch.topk(values, min(slots, values.shape[-1]), dim=-1)
    kept = (torch.arange(top.shape[-1], device=top.device) < count[:, None]) & (top > -torch.inf)
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, neurons, kept)


def gate_scale(sae: SparseAutoencoder) -> Float[Tensor, "d_sae"]:
    """exp(r_mag) of a gated SAE: the factor that brings its gate to units of gamma."""
    assert sae.W_mag is not None
    scale: Tensor = sae.W_mag.norm(dim=0) / sae.W_enc.norm(dim=0)
    return scale.nan_to_num(nan=1.0, posinf=1.0)  # a column of zeros has no scale


def matched_swap(
    sae: SparseAutoencoder, pre: PreActivations, a: SparseCode, score: Float[Tensor, "d_sae"], scale: Tensor | None
) -> SparseCode:
    """Swap that keeps as many neurons on each token as sigma did, for SAEs with one threshold per neuron.

    Among the neurons with gamma * score > 0 it keeps those with the largest gamma * score - threshold. With all scores
    1 that is sigma's own choice; with equal thresholds it is the order of gamma * score. A gated neuron counts as a
    JumpReLU neuron whose threshold is where its gate opens (Rajamanoharan et al. 2024, arXiv:2404.16014):
    gamma - threshold = exp(r_mag) * gate.

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
    """A topic is within reach on a token if a neuron with a score above `least` is among its 2k largest gamma.

    k is the number of active neurons on the token. Neurons with gamma <= 0 do not count, because no edit could activate
    them; on AbsTopK, which selects by magnitude, |gamma| counts.
    """

    score: Float[Tensor, "d_sae"]
    least: float

    def holds(self, sae: SparseAutoencoder, x: Float[Tensor, "token d_in"]) -> Bool[Tensor, "token"]:
        """Mask of the tokens where the topic is within reach."""
        pre = sae.pre_activations(x)
        active = (sae.select(pre).values != 0).sum(-1)
        size = pre.gamma.abs() if sae.architecture == "abstopk" else pre.gamma
        near = largest(size.masked_fill(size <= 0, -torch.inf), 2 * active)
        return (near & (self.score > self.least)).any(-1)


_NAMES = {"standard": "Standard (ReLU)", "topk": "TopK", "abstopk": "AbsTopK", "jumprelu": "JumpReLU", "gated": "Gated"}


def describe_swap(sae: SparseAutoencoder, n_unscored: int | None = None, *, matched_count: bool = False) -> str:
    """What swap can and cannot change on this architecture, in a sentence or two for users.

    Args:
        n_unscored: number of neurons with score 0.
    """
    name = _NAMES[sae.architecture]
    if sae.architecture in ("topk", "abstopk"):
        already = " It already keeps as many, so matched count changes nothing." if matched_count else ""
        return f"{name} SAE: swap chooses all {sae.k} active neurons of each token by pre-activation x score.{already}"
    unscored = "" if n_unscored is None else f" ({n_unscored:,} of {sae.d_sae:,})"
    if sae.architecture == "standard":
        already = " Matched count changes nothing: every neuron above 0 is active already." if matched_count else ""
        return f"{name} SAE: swap activates no new neuron; it only drops those of score 0{unscored}.{already}"
    if matched_count:
        return (
            f"{name} SAE, matched count: swap keeps as many neurons on each token as the SAE did, those with the "
            f"largest pre-activation x score minus threshold."
        )
    if sae.architecture == "jumprelu":
        return (
            "JumpReLU SAE (BatchTopK too): scores are at most 1, so swap can only drop neurons, never activate one; "
            "with matched count it keeps as many as the SAE did."
        )
    return (
        f"Gated SAE: swap activates no new neuron; it only drops those of score 0{unscored}. "
        f"With matched count it keeps as many as the SAE did."
    )
