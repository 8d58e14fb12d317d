"""The geometric median: the point whose weighted distances to given points have the smallest sum.

It initialises an SAE's decoder bias (FAST paper, Appendix A, Eq. 9-12). Weiszfeld's algorithm starts at the weighted
mean and repeatedly takes the mean with each point's weight divided by its distance from the last result.
"""

import torch
from jaxtyping import Float
from torch import Tensor

TOLERANCE = 1e-10  # a step this short, relative to the points' mean distance from their mean, ends the iteration
MAX_ITERATIONS = 10_000


def geometric_median(
    points: Float[Tensor, "point d"],
    weights: Float[Tensor, "point"] | None = None,
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Float[Tensor, "d"]:
    """Weighted geometric median, computed in float64 and returned in the dtype of `points`.

    Where the iteration meets one of the points, the plain step would divide by zero or stop too early. The step of
    Vardi and Zhang (2000) is taken there: it moves on if the pull of the other points exceeds the point's own weight.

    Args:
        weights: positive weight of each point; by default all are equal.
        tolerance: relative length of the last step. The iteration converges linearly, so the error of the result is a
            small multiple of it.

    Raises:
        ValueError: there are no points.
    """
    if len(points) == 0:
        raise ValueError("the geometric median of no points is not defined")
    x = points.double()
    w = torch.ones(len(x), dtype=x.dtype, device=x.device) if weights is None else weights.to(x)
    y = (w[:, None] * x).sum(0) / w.sum()
    scale = (x - y).norm(dim=1).mean()
    for _ in range(max_iterations):
        following = _weiszfeld_step(x, w, y, closest=1e-12 * scale)
        step = (following - y).norm()
        y = following
        if step <= tolerance * scale:
            break
    return y.to(points.dtype)


def _weiszfeld_step(
    x: Float[Tensor, "point d"], w: Float[Tensor, "point"], y: Float[Tensor, "d"], closest: Float[Tensor, ""]
) -> Float[Tensor, "d"]:
    """One step of the iteration from `y`; points nearer than `closest` count as equal to `y`."""
    distances = torch.cdist(x, y[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
    apart = distances > closest
    if not apart.any():
        return y
    pull = torch.where(apart, w / distances.clamp(min=torch.finfo(x.dtype).tiny), 0.0)
    target = (pull @ x) / pull.sum()
    if apart.all():
        return target
    own_weight = w[~apart].sum()
    strength = (pull @ (x - y)).norm()
    return y + (1 - own_weight / strength).clamp(min=0.0) * (target - y) if strength > 0 else y
