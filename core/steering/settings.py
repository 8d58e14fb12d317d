"""How a comparison steers."""

from __future__ import annotations

from dataclasses import dataclass

from core.steering.placement import Positions


@dataclass(frozen=True, kw_only=True)
class SteeringSettings:
    """How the edits of a comparison are made; see `edits.make_edit`."""

    keep_error: bool = False
    matched_count: bool = False
    n: int = 5  # neurons that clamp forces
    multiplier: float = 10.0  # times the reference value
    current: bool = False  # clamp relative to the neuron's own activation on the token
    alphas: tuple[tuple[int, float], ...] = ()  # (neuron, alpha) of add; none: the best-scored at its reference value
    vector_alpha: float = 1.0  # 1: the difference in means itself
    reach: float | None = None  # clamp, swap, weight: only where a neuron of more than this score is within reach
    positions: Positions | None = None  # None: each edit's own
