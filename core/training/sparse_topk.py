"""A TopK training SAE that computes gradients from the active neurons only.

A training step of sae_lens takes six dense products [token d_in d_sae]; this one takes only the encoder's. Decoding and
the gradients of both weights are sums over the `k` active neurons of each token, as all other terms are zero. Loss and
gradients are those of sae_lens's `TopKTrainingSAE` up to rounding. Decoder norms are multiplied into the weights
instead of the activations, which is equivalent.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from sae_lens import TopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag

_TOKENS_AT_ONCE = 256  # tokens whose rows are gathered together, few enough to stay in the cache


class _SparseAutoencode(torch.autograd.Function):
    """The reconstruction without the decoder bias; its gradients are summed over active neurons only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "token d_in"],
        W_enc: Float[Tensor, "d_in d_sae"],
        b_enc: Float[Tensor, "d_sae"],
        W_dec: Float[Tensor, "d_sae d_in"],
        k: int,
    ) -> tuple[Float[Tensor, "token d_in"], Float[Tensor, "token k"], Int[Tensor, "token k"]]:
        values, neurons = torch.addmm(b_enc, x, W_enc).topk(k, dim=-1, sorted=False)
        values = values.relu().to(W_dec.dtype)  # under autocast the product is in bfloat16
        ctx.save_for_backward(x, W_enc, W_dec, values, neurons)
        ctx.mark_non_differentiable(values, neurons)
        return embedding_bag(neurons, W_dec, per_sample_weights=values, mode="sum"), values, neurons

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "token d_in"], *_: Any) -> tuple[Tensor | None, ...]:
        x, W_enc, W_dec, values, neurons = ctx.saved_tensors
        grad_pre = _dot_rows(neurons, W_dec, grad) * (values > 0)
        order = neurons.flatten().argsort()
        tokens = order // neurons.shape[1]
        starts = torch.searchsorted(neurons.flatten()[order], torch.arange(len(W_dec), device=neurons.device))

        def by_neuron(weights: Float[Tensor, "token k"], vectors: Float[Tensor, "token d_in"]) -> Tensor:
            """For each neuron, the weighted sum of the vectors of the tokens on which it is active [d_sae d_in]."""
            return embedding_bag(tokens, vectors, starts, per_sample_weights=weights.flatten()[order], mode="sum")

        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = embedding_bag(neurons, W_enc.T.contiguous(), per_sample_weights=grad_pre, mode="sum")
        grad_b = torch.zeros_like(W_dec[:, 0]).index_add_(0, neurons.flatten(), grad_pre.flatten())
        return grad_x, by_neuron(grad_pre, x).T, grad_b, by_neuron(values, grad.contiguous()), None


def _dot_rows(
    neurons: Int[Tensor, "token k"], rows: Float[Tensor, "d_sae d_in"], vectors: Float[Tensor, "token d_in"]
) -> Float[Tensor, "token k"]:
    """Dot products of each token's vector with the rows of its active neurons."""
    pairs = zip(neurons.split(_TOKENS_AT_ONCE), vectors.split(_TOKENS_AT_ONCE), strict=True)
    return torch.cat([(embedding(chosen, rows) @ vector.unsqueeze(-1)).squeeze(-1) for chosen, vector in pairs])


class SparseTopKTrainingSAE(TopKTrainingSAE):  # type: ignore[misc]
    """A faster `TopKTrainingSAE`; needs `rescale_acts_by_decoder_norm` and no run-time normalisation."""

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        norms = self.W_dec.norm(dim=-1)
        W_enc, b_enc, W_dec = self.W_enc * norms, self.b_enc * norms, self.W_dec / norms.unsqueeze(-1)
        x = self.process_sae_in(step_input.sae_in)
        autoencode: Any = _SparseAutoencode.apply
        out, values, neurons = autoencode(x, W_enc, b_enc, W_dec, self.cfg.k)
        sae_out = out + self.b_dec
        mse_loss = self.mse_loss_fn(sae_out, step_input.sae_in).sum(dim=-1).mean()
        losses = {"mse_loss": mse_loss}
        losses["auxiliary_reconstruction_loss"] = self._revival_loss(x, W_enc, b_enc, W_dec, sae_out, step_input)
        return TrainStepOutput(
            sae_in=step_input.sae_in,
            sae_out=sae_out,
            feature_acts=_as_sparse(values, neurons, self.cfg.d_sae),
            hidden_pre=values,  # of the active neurons only; sae_lens's trainer just passes it on
            loss=sum(losses.values(), start=torch.zeros_like(mse_loss)),
            losses=losses,
        )

    def _revival_loss(
        self,
        x: Float[Tensor, "token d_in"],
        W_enc: Float[Tensor, "d_in d_sae"],
        b_enc: Float[Tensor, "d_sae"],
        W_dec: Float[Tensor, "d_sae d_in"],
        sae_out: Float[Tensor, "token d_in"],
        step_input: TrainStepInput,
    ) -> Tensor:
        """sae_lens's auxiliary loss: how badly the strongest dead neurons reconstruct the residual error."""
        dead = step_input.dead_neuron_mask
        if dead is None or not (n_dead := int(dead.sum())):
            return sae_out.new_zeros(())
        residual = (step_input.sae_in - sae_out).detach()
        k_aux = residual.shape[-1] // 2
        pre = x @ W_enc[:, dead] + b_enc[dead]
        top = pre.topk(min(k_aux, n_dead), sorted=False)
        acts = torch.zeros_like(pre).scatter(-1, top.indices, top.values)
        loss = (acts @ W_dec[dead] - residual).pow(2).sum(dim=-1).mean()
        scaled: Tensor = self.cfg.aux_loss_coefficient * min(n_dead / k_aux, 1.0) * loss
        return scaled


def _as_sparse(values: Float[Tensor, "token k"], neurons: Int[Tensor, "token k"], d_sae: int) -> Tensor:
    """Post-activations as a sparse tensor [token d_sae], on which sae_lens's trainer counts firing neurons."""
    tokens = torch.arange(len(values), device=values.device).repeat_interleave(values.shape[1])
    places = torch.stack([tokens, neurons.flatten()])
    active = values.flatten() > 0
    return torch.sparse_coo_tensor(
        places[:, active], values.flatten()[active], (len(values), d_sae), check_invariants=False
    )
