"""FAST, BT(F) and BT(P) compared: mean and spread over seeds, as trained and at one L0 for all."""

import numpy as np
import pandas as pd

FIGURES = (
    "mse_all_by_sequence",
    "mse_special_by_sequence",
    "mse_special_without_roles_by_sequence",
    "mse_template_by_sequence",
    "mse_first_by_sequence",
    "l0",
    "explained_variance",
    "dead_share",
    "ce_recovered",
)
_GROUP = ["model", "hook_name", "expansion", "architecture"]
_ON_LOG_SCALE = "mse"  # figures with this prefix are averaged and interpolated as log2
_FIXED_K = ("topk", "batchtopk")


def compared(results: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds of every figure, one row per method and lambda.

    Args:
        results: rows of `grid_run.results_table`; failed jobs are left out.

    Returns:
        Columns model, hook_name, expansion, architecture, method, sparsity (see `with_sparsity_in_force`), seeds (their
        number), and `<figure>` and `<figure>_spread` for each figure; squared errors are log2.
    """
    return _mean_and_spread(_figures(results), [*_GROUP, "method", "sparsity"])


def at_matched_l0(results: pd.DataFrame, l0: float) -> pd.DataFrame:
    """The same figures at one L0, interpolated between the lambdas of each method and seed.

    A method and seed whose L0s all lie on one side of `l0` has no row, as nothing is extrapolated.

    Returns:
        Columns as in `compared`, without sparsity.
    """
    rows = []
    for key, runs in _figures(results).groupby([*_GROUP, "method", "seed"]):
        if not runs["l0"].min() <= l0 <= runs["l0"].max():
            continue
        runs = runs.sort_values("l0")
        figures = {name: float(np.interp(l0, runs["l0"], runs[name])) for name in FIGURES}
        rows.append(dict(zip([*_GROUP, "method", "seed"], key, strict=True)) | figures)
    columns = [*_GROUP, "method", "seed", *FIGURES]
    return _mean_and_spread(pd.DataFrame(rows, columns=columns), [*_GROUP, "method"])


def with_sparsity_in_force(results: pd.DataFrame) -> pd.DataFrame:
    """The results with k as `sparsity` where the architecture has no lambda (TopK and BatchTopK)."""
    return results.assign(sparsity=results["k"].where(results["architecture"].isin(_FIXED_K), results["sparsity"]))


def _figures(results: pd.DataFrame) -> pd.DataFrame:
    done = with_sparsity_in_force(results[results["folder"].notna()])
    done = done.reindex(columns=[*done.columns, *(name for name in FIGURES if name not in done)])  # of earlier versions
    for name in FIGURES:
        if name.startswith(_ON_LOG_SCALE):
            done[name] = np.log2(done[name].astype(float))
    return done


def _mean_and_spread(figures: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    groups = figures.groupby(by)[list(FIGURES)]
    mean, spread = groups.mean(), groups.std(ddof=1).add_suffix("_spread")
    return pd.concat([groups.size().rename("seeds"), mean, spread], axis=1).reset_index()
