"""The comparison of methods on tables worked by hand."""

import numpy as np
import pandas as pd
import pytest

from core.training.method_comparison import FIGURES, at_matched_l0, compared


def table(rows: list[tuple[str, int, float, float, float]]) -> pd.DataFrame:
    """Results of (method, seed, sparsity, l0, squared error of every kind)."""
    base = {"model": "m", "hook_name": "blocks.2.hook_resid_post", "expansion": 8, "architecture": "standard", "k": 32}
    return pd.DataFrame(
        [
            base
            | dict.fromkeys(FIGURES, mse)
            | {"method": method, "seed": seed, "sparsity": sparsity, "l0": l0, "folder": "f", "error": None}
            for method, seed, sparsity, l0, mse in rows
        ]
    )


def test_mean_and_spread_are_over_seeds() -> None:
    got = compared(table([("fast", 0, 1.0, 40, 2.0), ("fast", 1, 1.0, 60, 8.0), ("btp", 0, 1.0, 50, 4.0)]))
    fast = got[got["method"] == "fast"].iloc[0]
    assert fast["seeds"] == 2
    assert (fast["l0"], fast["l0_spread"]) == (50, pytest.approx(np.sqrt(200)))
    assert fast["mse_special_by_sequence"] == pytest.approx(2.0)  # log2 of 2 and 8: 1 and 3
    assert fast["mse_special_by_sequence_spread"] == pytest.approx(np.sqrt(2))
    assert got[got["method"] == "btp"]["l0_spread"].isna().all()  # one seed has no spread


def test_failed_jobs_are_left_out() -> None:
    results = table([("fast", 0, 1.0, 40, 2.0), ("fast", 1, 1.0, 60, 8.0)])
    results.loc[1, "folder"] = None
    assert compared(results)["seeds"].tolist() == [1]


def test_matched_l0_is_interpolated_and_never_extrapolated() -> None:
    results = table(
        [("fast", 0, 1.0, 40, 4.0), ("fast", 0, 2.0, 20, 16.0), ("btp", 0, 1.0, 60, 4.0), ("btp", 0, 2.0, 35, 8.0)]
    )
    got = at_matched_l0(results, 30)
    assert got["method"].tolist() == ["fast"]
    assert got["mse_all_by_sequence"].tolist() == [pytest.approx(3.0)]  # half way between log2 of 4 and of 16
    assert got["l0"].tolist() == [30]
    assert sorted(at_matched_l0(results, 40)["method"]) == ["btp", "fast"]
    assert at_matched_l0(results, 90).empty


def test_saes_of_several_k_are_told_apart() -> None:
    results = table([("fast", 0, 1.0, 16, 4.0), ("fast", 0, 1.0, 32, 2.0)]).assign(architecture="topk", k=[16, 32])
    got = compared(results)
    assert got["sparsity"].tolist() == [16, 32]
    assert got["mse_all_by_sequence"].tolist() == [2.0, 1.0]


def test_figure_that_earlier_results_lack_is_left_open() -> None:
    results = table([("fast", 0, 1.0, 40, 2.0)]).drop(columns=["mse_first_by_sequence"])
    got = compared(results)
    assert got["mse_first_by_sequence"].isna().all()
    assert got["mse_all_by_sequence"].notna().all()
