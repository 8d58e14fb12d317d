"""What a build hands to the store: the active neurons of some prompts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32


@dataclass(frozen=True)
class ActivationBatch:
    """Active neurons of some prompts, special tokens left out. Rows are ordered by prompt and position."""

    prompts: Int32[np.ndarray, "prompt"]  # ids
    n_tokens: Int32[np.ndarray, "prompt"]  # ordinary tokens
    tokens: list[list[str]]  # their strings
    prompt: Int32[np.ndarray, "active"]
    position: Int32[np.ndarray, "active"]  # among the prompt's ordinary tokens, from 0
    neuron: Int32[np.ndarray, "active"]
    activation: Float32[np.ndarray, "active"]
