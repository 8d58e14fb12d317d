"""Decoder rows that keep unit norm while an SAE trains (FAST paper, Appendix C: 'Normalize SAE Decoder: True')."""

from typing import Any

import torch
from jaxtyping import Float
from sae_lens.saes.sae import TrainingSAE
from torch import Tensor


def keep_decoder_direction(sae: TrainingSAE[Any]) -> None:
    """Lets gradients turn decoder rows but not lengthen them: removes their part along each row (rows of unit norm)."""

    def across(gradient: Float[Tensor, "d_sae d_in"]) -> Float[Tensor, "d_sae d_in"]:
        rows: Tensor = sae.W_dec.detach()
        return gradient - (gradient * rows).sum(-1, keepdim=True) * rows

    sae.W_dec.register_hook(across)


@torch.no_grad()
def normalise_decoder(sae: TrainingSAE[Any]) -> None:
    """Scales each decoder row to unit norm, after a step has moved it off the sphere."""
    sae.W_dec /= sae.W_dec.norm(dim=-1, keepdim=True)
