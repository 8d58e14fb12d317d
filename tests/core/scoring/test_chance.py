"""Chance: the permutation null by hand and by brute force, p-values and levels against scipy, cases against numpy."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from core.scoring.chance import CAP, LEVEL, SIDES, Chance, Tail, deviation, deviations, measure, step_up, verdict
from core.scoring.scores import TopicScores, score_topic
from core.settings import ScoreSettings
from core.store.reader import Store
from tests.core.scoring.test_scores import SUMMARIES
from tests.fixtures.stores import Dense, hand_store, random_dense

# ---- the permutation null ----


def test_deviation_by_hand() -> None:
    # distances 1, 2, 6: mean 3, sample variance 7; weights 1/2, 1/2, 0: sum w^2 = 1/2, variance 7 (1/2 - 1/3) = 7/6
    found = deviation(np.array([1.5]), np.array([1.0, 2.0, 6.0]), np.array([0.5]))
    assert found == pytest.approx(-1.5 / np.sqrt(7 / 6))


def test_deviation_equals_all_permutations() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 4, 6):
        weights, values = rng.dirichlet(np.ones(n)), rng.uniform(0.5, 1.5, n)
        dealt = np.array([weights @ np.array(p) for p in permutations(values)])
        expected = (weights @ values - dealt.mean()) / dealt.std()
        found = deviation(np.array([weights @ values]), values, np.array([weights @ weights]))
        assert found == pytest.approx(expected)


def test_deviation_does_not_divide_by_nothing() -> None:
    equal, alike = np.full(4, 1.3), np.array([0.25])
    assert deviation(np.array([1.3]), equal, np.array([0.5])).tolist() == [0.0]
    assert deviation(np.array([1.5]), np.arange(4.0), alike).tolist() == [0.0]


def test_deviation_of_many_topics_is_that_of_each_and_the_cap_lowers_it() -> None:
    rng = np.random.default_rng(1)
    values, weights = rng.uniform(0.5, 1.5, (30, 3)), rng.dirichlet(np.ones(30), 5)
    squares = (weights**2).sum(axis=1)
    together = deviation(weights @ values, values, squares, cap=50)
    for topic in range(3):
        alone = deviation(weights @ values[:, topic], values[:, topic], squares, cap=50)
        np.testing.assert_allclose(together[:, topic], alone)
    assert (np.abs(together) < np.abs(deviation(weights @ values, values, squares))).all()


@pytest.mark.parametrize("summary", SUMMARIES)
def test_weight_squares_equal_dense_reference(tmp_path: Path, summary: str) -> None:
    dense = random_dense(4)
    with dense.write(tmp_path) as store:
        found = store.weight_squares(summary)  # type: ignore[arg-type]
    weights = weights_of(dense, summary)
    np.testing.assert_allclose(found, (weights**2).sum(axis=0), rtol=1e-5, equal_nan=True)


def weights_of(dense: Dense, summary: str) -> np.ndarray:
    """Each prompt's share of a neuron's summed summary [prompt neuron], NaN for a neuron that never fires."""
    a, n_tokens = dense.a, dense.n_tokens[:, None].astype(float)
    totals = a.sum(axis=(1, 2))[:, None]
    values = {
        "sum": np.divide(a.sum(axis=1), totals, out=np.zeros_like(a[:, 0]), where=totals > 0),
        "max": a.max(axis=1),
        "mean": a.sum(axis=1) / n_tokens,
        "count": (a > 0).sum(axis=1) / n_tokens,
    }[summary]
    with np.errstate(invalid="ignore"):
        return np.asarray(values / values.sum(axis=0))


# ---- p-values and levels ----


def test_step_up_equals_scipy() -> None:
    p = np.random.default_rng(2).beta(0.3, 1, 200)
    np.testing.assert_allclose(np.minimum(step_up(p), 1.0), false_discovery_control(p))


def test_p_values_count_what_is_as_large() -> None:
    pooled = np.random.default_rng(3).normal(size=3_000)
    tail = Tail.of(pooled)  # its 60 largest, all kept
    asked = np.array([9.0, *np.sort(pooled)[-50::7], np.sort(pooled)[-3] + 1e-9, 0.0])
    expected = [(np.sum(pooled >= one) + 1) / 3_001 for one in asked[:-1]]
    np.testing.assert_allclose(tail.p_values(asked), [*expected, 1.0])  # beyond the tail nothing is known


def test_p_values_between_kept_ranks_are_never_too_small() -> None:
    pooled = np.random.default_rng(3).normal(size=200_000)
    tail = Tail.of(pooled)
    assert len(tail.ranks) < 400
    asked = np.linspace(2.1, 4.5, 300)
    exact = np.array([(np.sum(pooled >= one) + 1) / 200_001 for one in asked])
    found = tail.p_values(asked)
    assert (found >= exact).all()
    assert (found <= 1.06 * exact + 1e-5).all()


def meaningless_topics(seed: int, n_topics: int = 200) -> dict:
    """Deviations of 300 neurons that only noise moves, the topics of a cluster together."""
    rng = np.random.default_rng(seed)
    cluster = rng.normal(size=(10, n_topics))
    noise = rng.normal(size=(300, n_topics)) + 2 * cluster[rng.integers(0, 10, 300)]
    return {"aligned": noise, "unaligned": -noise, "polysemantic": np.minimum(noise, -noise)}


def test_meaningless_topics_show_a_neuron_at_most_at_the_stated_level() -> None:
    chance = measure({side: [of_side] for side, of_side in meaningless_topics(0).items()})
    assert all(level <= LEVEL for level in chance.levels.values())
    fresh = meaningless_topics(1, 2_000)["aligned"]
    p = [step_up(chance.tails["aligned"].p_values(topic)).min() for topic in fresh.T]
    assert 0.002 < np.mean(np.array(p) <= chance.levels["aligned"]) <= LEVEL
    # the plain null, whose deviations would be normal, cries wolf nearly always
    assert np.mean(fresh.max(axis=0) > 3.6) > 0.5


# ---- cases ----


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    with random_dense(11, n_prompts=60, d_sae=16).write(tmp_path_factory.mktemp("chance")) as opened:
        yield opened


def scores_in(store: Store, settings: ScoreSettings) -> TopicScores:
    return score_topic(store, store.embeddings()[:2], settings)


def test_deviations_equal_numpy(store: Store) -> None:
    settings = ScoreSettings(min_prompts=5, distance="squared")
    scores = scores_in(store, settings)
    d, weights = scores.distances.astype(float), weights_of(random_dense(11, n_prompts=60, d_sae=16), "sum")
    scored = scores.table["score"].notna().to_numpy()
    squares = (weights**2).sum(axis=0)[scored]
    sums = {name: scores.table.loc[scored, name].to_numpy() for name in ("g", "near", "far")}
    found = deviations(sums, d, 2, squares)

    def against(values: np.ndarray) -> np.ndarray:
        sd = np.sqrt(values.var(ddof=1) * (squares - 1 / 60 + 1 / CAP))
        return np.asarray((weights[:, scored].T @ values - values.mean()) / sd)

    near, far = d <= np.quantile(d, 0.25), d >= np.quantile(d, 0.75)
    np.testing.assert_allclose(found["aligned"], -against(d**2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["unaligned"], against(d**2), rtol=1e-4, atol=1e-5)
    both = np.minimum(against(near.astype(float)), against(far.astype(float)))
    np.testing.assert_allclose(found["polysemantic"], both, rtol=1e-4, atol=1e-5)


def test_cases_by_hand(tmp_path: Path) -> None:
    hand_store(tmp_path)
    with Store.open(tmp_path, "tiny") as tiny:
        scores = score_topic(tiny, np.array([[0.6, 0.8]], dtype=np.float32), ScoreSettings(min_prompts=1))
        squares = tiny.weight_squares("sum")
    # neuron 0 has 0.75 and 0.125, neuron 1 0.25, 0.75 and 1, neuron 2 one prompt alone
    np.testing.assert_allclose(squares[:3], [(0.75**2 + 0.125**2) / 0.875**2, (0.0625 + 0.5625 + 1) / 4, 1.0])
    easy, hard = Tail(np.array([1]), np.array([-9.0]), 999), Tail(np.array([1]), np.array([9.0]), 999)
    levels = dict.fromkeys(SIDES, 0.05)

    def cases(**easy_sides: Tail) -> list[str]:
        found = Chance({side: easy_sides.get(side, hard) for side in SIDES}, levels).cases(scores, squares)
        return [str(case) for case in found["case"]]

    assert cases() == ["not told apart"] * 3 + ["too rare"]
    assert cases(aligned=easy) == ["aligned"] * 3 + ["too rare"]
    assert cases(aligned=easy, polysemantic=easy) == ["polysemantic"] * 3 + ["too rare"]
    found = Chance(dict.fromkeys(SIDES, hard), levels).cases(scores, squares)
    d = np.sqrt([0.8, 0.4, 3.2])
    assert found["z"][2] == pytest.approx((d[1] - d.mean()) / np.sqrt(d.var(ddof=1) * (1 - 1 / 3)), rel=1e-5)
    assert found["z"].isna().tolist() == found["p"].isna().tolist() == [False, False, False, True]


def test_a_dense_neuron_is_named_as_such(store: Store) -> None:
    limit = float(np.sort(store.density())[-3])
    scores = scores_in(store, ScoreSettings(min_prompts=5, max_density=limit))
    hard = Tail(np.array([1]), np.array([99.0]), 999)
    chance = Chance(dict.fromkeys(SIDES, hard), dict.fromkeys(SIDES, 0.05))
    case = chance.cases(scores, store.weight_squares("sum"))["case"]
    assert (case == "too dense").sum() == 2
    assert ((case == "too rare") == (scores.table["prompts"] < 5)).all()


@pytest.mark.parametrize(
    ("aligned", "words"),
    [
        (12, "12 neurons stand out beyond chance"),
        (1, "1 neuron stands out beyond chance"),
        (0, "no neuron stands out: topics of random words show neurons as close"),
    ],
)
def test_verdict_counts_the_aligned_neurons(aligned: int, words: str) -> None:
    assert verdict(pd.DataFrame({"case": ["aligned"] * aligned + ["unaligned"]})) == words
