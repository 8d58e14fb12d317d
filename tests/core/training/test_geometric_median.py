"""The geometric median against an independent solver and cases worked by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from core.training.geometric_median import geometric_median


def solved(points: Tensor, weights: Tensor) -> Tensor:
    """The same minimum by BFGS with an analytic gradient."""
    x, w = points.double().numpy(), weights.double().numpy()

    def loss(y: np.ndarray) -> tuple[float, np.ndarray]:
        difference = y - x
        distance = np.linalg.norm(difference, axis=1)
        return float(w @ distance), (w / distance) @ difference

    result = minimize(loss, x.mean(0), jac=True, method="BFGS", options={"gtol": 1e-11, "maxiter": 5_000})
    return torch.from_numpy(result.x)


@pytest.mark.parametrize(("n", "d"), [(5, 2), (300, 8), (500, 32)])
def test_geometric_median_equals_scipy(n: int, d: int) -> None:
    generator = torch.Generator().manual_seed(n)
    points = 3 + torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 4, d)
    points[: n // 20] *= 50  # outliers
    weights = 0.2 + torch.rand(n, generator=generator, dtype=torch.float64)
    ours = geometric_median(points, weights)
    torch.testing.assert_close(ours, solved(points, weights), atol=1e-6, rtol=0)


def test_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    torch.testing.assert_close(geometric_median(points), points.mean(0))


@pytest.mark.parametrize("heavy", [0, 1, 4])
def test_geometric_median_stays_at_a_point_that_outweighs_the_others(heavy: int) -> None:
    points = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [9.0, 9.0], [2.0, 3.0]], dtype=torch.float64)
    weights = torch.ones(5)
    weights[heavy] = 10
    torch.testing.assert_close(geometric_median(points, weights), points[heavy], atol=1e-8, rtol=0)


def test_geometric_median_leaves_a_point_that_is_not_the_median() -> None:
    # the weighted mean, where the iteration starts, is the third point; the median is between the first two
    points = torch.tensor([[0.0], [1.0], [2.0], [5.0]], dtype=torch.float64)
    assert 1 - 1e-6 <= geometric_median(points).item() <= 2 + 1e-6


def test_geometric_median_ignores_how_far_an_outlier_is() -> None:
    points = torch.tensor([[0.0], [1.0], [1_000_000.0]], dtype=torch.float64)
    torch.testing.assert_close(geometric_median(points), torch.tensor([1.0], dtype=torch.float64), atol=1e-4, rtol=0)


def test_geometric_median_of_equal_points_is_that_point() -> None:
    assert torch.equal(geometric_median(torch.full((4, 3), 2.5)), torch.full((3,), 2.5))


def test_geometric_median_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no points"):
        geometric_median(torch.empty(0, 3))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100.0), st.floats(-50.0, 50.0))
def test_geometric_median_moves_and_scales_with_the_points(seed: int, scale: float, shift: float) -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moved = geometric_median(points * scale + shift)
    torch.testing.assert_close(moved, geometric_median(points) * scale + shift, atol=1e-6 * scale, rtol=1e-7)
