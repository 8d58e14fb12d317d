"""An exact shortcut to the largest pre-activations of a few tokens: a first pass in half the memory.

While text is generated, reading the encoder's weights is nearly all that an SAE costs. The first pass reads them in
float16 and says how far each of its pre-activations can be from the float32 one; only neurons that can be among the
largest are then computed in float32. Where too many can be, the whole product is formed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.models.codes import largest_of

FEW_TOKENS = 64  # with more, forming the product costs more than reading the weights
_UNIT = 2.0**-24  # unit roundoff of float32
_MORE = 16  # neurons that are looked at again beyond k, or half of k where that is more


def runs_here() -> bool:
    """Whether products of float16 weights and float32 activations run: FBGEMM's, on x86 processors."""
    return "fbgemm" in torch.backends.quantized.supported_engines


@dataclass(frozen=True)
class FirstPass:
    """The encoder of an SAE in float16, and how far its products can be off.

    |rough_i - gamma_i| <= bound |x| + 4 u max_j |rough_j|, where bound is the largest over neurons of
    |W_i - float16(W_i)| + 2 d_in u |W_i|: Cauchy-Schwarz, and the rounding of two sums of d_in products (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1), u being the unit roundoff; the rest is the bias's.
    """

    rows: Float[Tensor, "d_sae d_in"]  # W_enc transposed: each neuron's weights together
    b_enc: Float[Tensor, "d_sae"]
    packed: Any = field(repr=False)  # FBGEMM's own form of the float16 weights and the bias
    bound: float

    @classmethod
    def of(cls, W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, "d_sae"]) -> FirstPass | None:
        """None for weights that are not float32, on the CPU and within float16, and where there is no FBGEMM."""
        on_cpu = W_enc.device.type == "cpu" and W_enc.dtype == torch.float32
        if not (on_cpu and runs_here() and W_enc.abs().max() <= torch.finfo(torch.float16).max):
            return None
        rows = W_enc.T.contiguous()
        packed = torch.ops.quantized.linear_prepack_fp16(rows, b_enc)
        kept, _ = torch.ops.quantized.linear_unpack_fp16(packed)
        # some more than the analysis says, for terms of second order and the rounding of the norms
        off = 1.001 * (rows - kept).norm(dim=1) + 2.2 * rows.shape[1] * _UNIT * rows.norm(dim=1)
        return cls(rows, b_enc, packed, float(off.max()))

    def rough(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_sae"]:
        """gamma by the float16 weights."""
        out: Tensor = torch.ops.quantized.linear_dynamic_fp16(x.contiguous(), self.packed)
        return out

    def exact(self, x: Float[Tensor, "token d_in"], neurons: Int[Tensor, "token slot"]) -> Float[Tensor, "token slot"]:
        """gamma of some neurons of each token, by the float32 weights."""
        rows = self.rows.index_select(0, neurons.flatten()).view(*neurons.shape, self.rows.shape[1])
        return torch.bmm(rows, x[:, :, None])[..., 0] + self.b_enc[neurons]


@dataclass(frozen=True)
class Screened:
    """Pre-activations of which only those that can be among the largest are formed; `gamma` forms every one."""

    first: FirstPass
    x: Float[Tensor, "token d_in"]  # what the encoder's weights are multiplied with
    rough: Float[Tensor, "token d_sae"]  # by the first pass, not weighted
    weight: Float[Tensor, "d_sae"] | None = None  # every gamma is multiplied by its neuron's
    scale: Float[Tensor, "token 1"] | None = None
    shift: Float[Tensor, "token 1"] | None = None

    @property
    def gate(self) -> None:
        return None

    @cached_property
    def gamma(self) -> Float[Tensor, "token d_sae"]:
        gamma = self.x @ self.first.rows.T + self.first.b_enc
        return gamma if self.weight is None else gamma * self.weight

    def weighted(self, score: Float[Tensor, "d_sae"]) -> Screened:
        return replace(self, weight=score if self.weight is None else self.weight * score)

    def of(self, tokens: Bool[Tensor, "token"]) -> Screened:
        scale, shift = (None if t is None else t[tokens] for t in (self.scale, self.shift))
        return replace(self, x=self.x[tokens], rough=self.rough[tokens], scale=scale, shift=shift)

    def at(self, neurons: Int[Tensor, "token slot"]) -> Float[Tensor, "token slot"]:
        exact: Tensor = self.first.exact(self.x, neurons)
        return exact if self.weight is None else exact * self.weight[neurons]

    def largest(self, k: int, *, magnitude: bool = False) -> Int[Tensor, "token k"]:
        size = self.rough if self.weight is None else self.rough * self.weight
        looked_at = min(k + max(_MORE, k // 2), size.shape[-1])
        values, neurons = torch.topk(size.abs() if magnitude else size, looked_at, dim=-1)
        # a neuron left out could be among the k largest only if both were off as far as they can be
        if looked_at < size.shape[-1] and not (values[:, -1] < values[:, k - 1] - 2 * self._off()).all():
            return largest_of(self.gamma, k, magnitude)
        return neurons.gather(-1, largest_of(self.at(neurons), k, magnitude))

    def _off(self) -> Float[Tensor, "token"]:
        """How far a weighted rough value can be from the exact one, on each token."""
        heaviest = 1.0 if self.weight is None else self.weight.abs().max()
        off: Tensor = heaviest * (self.first.bound * self.x.norm(dim=-1) + 4 * _UNIT * self.rough.abs().amax(-1))
        return off
