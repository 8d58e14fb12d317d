"""What a build writes to the store: the active neurons of some prompts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32


@dataclass(frozen=True)
class ActivationBatch:
    """Active neurons on the ordinary (non-special) tokens of some prompts, one entry per (prompt, position, neuron)."""

    prompts: Int32[np.ndarray, "prompt"]  # ids of the prompts
    n_tokens: Int32[np.ndarray, "prompt"]  # number of ordinary tokens
    tokens: list[list[str]]  # the ordinary tokens as text
    prompt: Int32[np.ndarray, "active"]  # id; in the order of `prompts`
    position: Int32[np.ndarray, "active"]  # among the prompt's ordinary tokens, from 0
    neuron: Int32[np.ndarray, "active"]
    activation: Float32[np.ndarray, "active"]
