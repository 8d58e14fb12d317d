"""How sharply swap has to choose neurons by score to change what the SAE chose."""

from typing import Literal

import numpy as np
from jaxtyping import Float

from core.errors import SettingsError

AUTO: Literal["auto"] = "auto"  # the sharpness that `auto_sharpness` finds
_TRIED = np.arange(0.1, 10.05, 0.1)


def auto_sharpness(mean: Float[np.ndarray, "d_sae"], score: Float[np.ndarray, "d_sae"], k: int) -> float:
    """The smallest s at which swap changes half of the active neurons of a mean reference token.

    That token has each neuron's mean activation over all reference tokens, and its k largest are active. Swap takes the
    k largest of activation x score^s. The rule is ours; the Topic Alignment paper has s = 1.

    Args:
        mean: activation of each neuron, mean over all reference tokens.
        k: active neurons of a token.

    Returns:
        s in steps of 0.1, at most 10, which is also the answer where no s changes half.
    """
    before = set(_largest(mean, k))
    for s in _TRIED:
        kept = before.intersection(_largest(mean * score**s, k))
        if len(kept) <= len(before) / 2:
            return round(float(s), 1)
    return round(float(_TRIED[-1]), 1)


def _largest(values: Float[np.ndarray, "d_sae"], k: int) -> list[int]:
    """The neurons with the k largest values above 0."""
    order = np.argsort(-values, kind="stable")[:k]
    return [int(i) for i in order if values[i] > 0]


def parse_sharpness(text: str) -> float | Literal["auto"]:
    """Sharpness as it is typed: a number, or `auto`.

    Raises:
        SettingsError: the text is neither.
    """
    if text.strip().lower() == AUTO:
        return AUTO
    try:
        return float(text)
    except ValueError:
        raise SettingsError(f"sharpness is a number above 0, or {AUTO}; not '{text}'") from None
