"""The layer's output under each edit: figures against numpy over one prompt at a time, tables by hand."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

from core.evaluation.experiments import ExperimentOptions
from core.evaluation.layer import (
    ALIGNED,
    ALL_TOPICS,
    COLUMNS,
    EDITED,
    FIGURES,
    N_EXTREMES,
    N_POINTS,
    UNALIGNED,
    Text,
    changed_histogram,
    contrasts,
    correlation,
    extremes,
    over_topics,
    read_text,
    summarise,
    token_figures,
)
from core.evaluation.running import run_and_save
from core.results.app_store import AppStore
from core.steering.settings import SteeringSettings
from core.steering.workbench import Workbench
from core.text.prompts import bundled_topics, unaligned_prompts
from tests.fixtures.autoencoders import HOOK_LAYER, K

PROMPTS = ("The court rules.", "A contract is void unless both parties sign it in the presence of a witness.", "Hello")


def figures_of(**columns: list[float]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"prompt": [0] * n, **{name: [0.0] * n for name in (*FIGURES, "sae_error")}, **columns})


@pytest.fixture(scope="module")
def text(bench: Workbench) -> Text:
    return read_text(bench.model, bench.sae.hook_name, PROMPTS)


# ---- against one prompt at a time ----


@torch.no_grad()
def streams(bench: Workbench) -> list[np.ndarray]:
    """The activations of each prompt's own tokens, run alone behind the beginning-of-text token."""
    model, tokenizer = bench.model.model, bench.model.tokenizer
    rows = []
    for prompt in PROMPTS:
        ids = [tokenizer.bos_token_id, *tokenizer(prompt).input_ids]
        hidden = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        rows.append(hidden[HOOK_LAYER + 1][0, 1:].double().numpy())
    return rows


def numpy_figures(bench: Workbench, score: np.ndarray, name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """What a TopK SAE's edit does, from the formulas of the method, in float64."""
    weights = {key: getattr(bench.sae, key).double().numpy() for key in ("W_enc", "W_dec", "b_enc", "b_dec")}
    gamma = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]

    def topk(values: np.ndarray) -> np.ndarray:
        kept = np.zeros_like(values)
        for row, of_token in enumerate(values):
            best = np.argsort(-of_token)[:K]
            kept[row, best] = np.maximum(of_token[best], 0)
        return kept

    a, weighted = topk(gamma), topk(gamma * score)
    edited = {"sae": a.copy(), "clamp": a.copy(), "swap": np.where(weighted != 0, gamma, 0.0), "weight": weighted}[name]
    if name == "clamp":
        best = np.argsort(-score, kind="stable")[:5]
        edited[:, best] = 10 * bench.store.reference_max()[best]
    sae_error = ((a @ weights["W_dec"] + weights["b_dec"] - x) ** 2).mean(-1)
    error = ((edited @ weights["W_dec"] + weights["b_dec"] - x) ** 2).mean(-1)
    product = (edited * (1 - score)).sum(-1)
    return {
        "neurons_changed": (a != edited).sum(-1),
        "reconstruction_delta": error - sae_error,
        "contamination": product,
        "contamination_share": product / edited.sum(-1),
        "sae_error": sae_error,
    }


@pytest.mark.parametrize("name", COLUMNS)
def test_figures_equal_numpy_prompt_by_prompt(name: str, bench: Workbench, text: Text) -> None:
    scored = bench.score(bundled_topics()["law"])
    score = scored.scores.steering_vector()
    found = token_figures(bench.edit(name, scored, SteeringSettings()), text, torch.from_numpy(score))
    for prompt, x in enumerate(streams(bench)):
        mine = found[text.prompt == prompt].iloc[np.argsort(text.position[text.prompt == prompt])]
        expected = numpy_figures(bench, score.astype(float), name, x)
        assert len(mine) == len(x)
        for figure, values in expected.items():
            np.testing.assert_allclose(mine[figure], values, rtol=1e-3, atol=1e-4, err_msg=figure)


def test_figures_do_not_depend_on_blocks(bench: Workbench, text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = bench.score(bundled_topics()["law"])
    edit, score = bench.edit("swap", scored, SteeringSettings()), torch.from_numpy(scored.scores.steering_vector())
    whole = token_figures(edit, text, score)
    monkeypatch.setattr("core.evaluation.layer._BLOCK", 4)
    pd.testing.assert_frame_equal(token_figures(edit, text, score), whole, rtol=1e-4, atol=1e-5)


def test_text_holds_every_token_of_the_prompts_and_its_context(text: Text) -> None:
    for number, prompt in enumerate(PROMPTS):
        places = np.flatnonzero(text.prompt == number)
        assert sorted(text.position[places]) == list(range(len(places)))
        assert "".join(text.strings[number]) == prompt
    assert len(text.x) == len(text.prompt)
    (last,) = np.flatnonzero((text.prompt == 0) & (text.position == len(text.strings[0]) - 1))
    assert text.context(last) == {"before": PROMPTS[0][:-1], "token": ".", "after": ""}


# ---- tables by hand ----


def test_mean_is_over_prompts_and_spread_over_tokens() -> None:
    figures = figures_of(
        prompt=[0, 0, 0, 1], neurons_changed=[2.0, 4.0, 6.0, 8.0], reconstruction_delta=[0.0, 1.0, 2.0, 3.0]
    )
    found = summarise(figures)
    assert (found["n"], found["tokens"]) == (2, 4)
    assert found["neurons_changed"] == 6.0  # of 4 and 8
    assert (found["neurons_changed_low"], found["neurons_changed_high"]) == (4.0, 8.0)
    assert (found["delta_p5"], found["delta_p95"]) == (pytest.approx(0.15), pytest.approx(2.85))


def test_correlation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30)).round(1)  # with ties
    figures = figures_of(contamination=list(x), reconstruction_delta=list(y))
    assert correlation(figures) == pytest.approx(spearmanr(x, y).statistic)
    assert math.isnan(correlation(figures_of(contamination=[1.0, 2.0], reconstruction_delta=[0.0, 0.0])))


def test_histogram_counts_every_token() -> None:
    found = changed_histogram(figures_of(neurons_changed=[2.0, 0.0, 2.0, 6.0]))
    assert found.to_dict("list") == {"neurons_changed": [0, 2, 6], "tokens": [1, 2, 1], "share": [0.25, 0.5, 0.25]}


def test_extremes_are_the_ends_in_context(text: Text) -> None:
    delta = np.random.default_rng(1).normal(size=len(text.x))
    found = extremes(figures_of(reconstruction_delta=list(delta)), text)
    n = min(N_EXTREMES, len(delta) // 2)
    assert found["end"].tolist() == ["lowest"] * n + ["highest"] * n
    assert found["place"].tolist() == [*range(1, n + 1), *range(1, n + 1)]
    ordered = np.sort(delta)
    np.testing.assert_array_equal(found["reconstruction_delta"], [*ordered[:n], *ordered[::-1][:n]])
    first = text.context(int(np.argmin(delta)))
    assert found.iloc[0][["before", "token", "after"]].to_dict() == first


def summary_of(means: dict[tuple[str, str, str], float]) -> pd.DataFrame:
    rows = [
        {"topic": topic, "edit": edit, "set": name, "n": 2, "tokens": 10}
        | dict.fromkeys((*FIGURES, "delta_p5", "delta_p95", "sae_error", "correlation"), value)
        for (topic, edit, name), value in means.items()
    ]
    return pd.DataFrame(rows)


def test_topics_are_averaged_and_paired() -> None:
    edits = {"sae": 0.0, "clamp": 5.0, "swap": 3.0, "weight": 9.0}
    means = {
        (topic, edit, name): value + shift + (0.5 if name == ALIGNED else 0.0)
        for topic, shift in (("law", 0.0), ("cooking", 1.0))
        for edit, value in edits.items()
        for name in (ALIGNED, UNALIGNED)
    }
    table = over_topics(summary_of(means)).set_index(["edit", "set"])
    assert table["topic"].unique().tolist() == [ALL_TOPICS]
    assert table.loc[("swap", ALIGNED), "contamination"] == 4.0
    assert table.loc[("swap", ALIGNED), ["n", "tokens"]].tolist() == [2, 20]
    assert table.loc[("swap", ALIGNED), ["contamination_low", "contamination_high"]].tolist() == [3.5, 4.5]
    pairs = contrasts(summary_of(means)).set_index(["first", "second", "figure"])
    for edit in EDITED:
        row = pairs.loc[(f"{edit}, {ALIGNED}", f"{edit}, {UNALIGNED}", "contamination")]
        assert row[["difference", "low", "high", "n"]].tolist() == [0.5, 0.5, 0.5, 2]
    row = pairs.loc[(f"swap, {UNALIGNED}", f"clamp, {UNALIGNED}", "neurons_changed")]
    assert row["difference"] == -2.0


# ---- the experiment ----


def test_experiment_keeps_its_tables(bench: Workbench, tmp_path: Path) -> None:
    topics = tuple(bundled_topics()[name] for name in ("law", "cooking"))
    results, shares = AppStore(tmp_path), []
    tables = run_and_save(
        "layer", bench, ExperimentOptions(topics=topics), results, "tiny", lambda _, share: shares.append(share)
    )
    for name, frame in tables.items():
        kept = results.result("tiny", name)
        assert kept is not None
        pd.testing.assert_frame_equal(kept, frame)
    assert shares == sorted(shares)
    summary = tables["layer"].set_index(["topic", "edit", "set"])
    assert len(summary) == 3 * len(COLUMNS) * 2
    sae = summary.xs("sae", level="edit")
    assert (sae[["neurons_changed", "reconstruction_delta"]] == 0).all(axis=None)
    # what the method promises: swap's share is never above the SAE's, and clamp changes a fixed number
    assert (summary.xs("swap", level="edit")["contamination_share"] <= sae["contamination_share"] + 1e-6).all()
    assert (summary.xs("clamp", level="edit")["neurons_changed"] == 5).all()
    assert summary.loc[("law", "sae", UNALIGNED), "n"] == len(unaligned_prompts())

    shares_of = tables["layer-changed"].groupby(["topic", "edit", "set"])
    assert len(shares_of) == 2 * len(EDITED) * 2
    np.testing.assert_allclose(shares_of["share"].sum(), 1.0)
    assert (shares_of["tokens"].sum() == summary["tokens"].reindex(shares_of["tokens"].sum().index)).all()

    points = tables["layer-tokens"]
    drawn = {
        key: group[["before", "token", "after"]].to_numpy() for key, group in points.groupby(["topic", "edit", "set"])
    }
    assert all(len(rows) <= N_POINTS for rows in drawn.values())
    np.testing.assert_array_equal(drawn["law", "swap", ALIGNED], drawn["law", "clamp", ALIGNED])  # the same tokens
    assert len(tables["layer-extremes"]) == 2 * len(EDITED) * 2 * 2 * N_EXTREMES


def test_steering_settings_are_those_of_the_options(bench: Workbench, tmp_path: Path) -> None:
    options = ExperimentOptions(topics=(bundled_topics()["law"],), steering=SteeringSettings(n=2))
    tables = run_and_save("layer", bench, options, AppStore(tmp_path), "tiny")
    summary = tables["layer"].set_index(["topic", "edit", "set"])
    assert summary.loc[("law", "clamp", ALIGNED), "neurons_changed"] == 2
