"""How a comparison steers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Strict

from core.errors import SettingsError
from core.validated import NotNegative, Positive, Several, Whole, validated

Positions = Literal["all", "content", "generated", "prompt", "special", "user", "assistant"]  # tokens that are edited


@validated(SettingsError)
class SteeringSettings:
    """How the edits of a comparison are made; see `edits.make_edit`.

    Raises:
        SettingsError: a value that is none of the choices, or out of range.
    """

    keep_error: bool = False
    matched_count: bool = False
    # swap chooses neurons by pre-activation x score^sharpness; 1: the paper's, auto: see `scoring.sharpness`
    sharpness: Positive | Literal["auto"] = 1.0
    n: Whole = 5  # neurons that clamp forces
    multiplier: float = 10.0  # times the reference value
    current: bool = False  # clamp relative to the neuron's own activation on the token
    # (neuron, alpha) of add; none: the best-scored neuron at its reference value
    alphas: Several[Annotated[tuple[int, float], Strict(False)]] = ()
    vector_alpha: float = 1.0  # 1: the difference in means itself
    reach: NotNegative | None = None  # clamp, swap, weight: only where a neuron of more than this score is within reach
    positions: Positions | None = None  # None: each edit's own

    def __post_init__(self) -> None:
        neurons = [neuron for neuron, _ in self.alphas]
        if twice := next((neuron for neuron in neurons if neurons.count(neuron) > 1), None):
            raise SettingsError(f"each neuron has one alpha; neuron {twice} is given {neurons.count(twice)} times")
