"""Distances between topics: by hand, and against loops over pairs."""

import math
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.errors import UsageError
from core.evaluation.distances import (
    ALL,
    N_EXAMPLES,
    PAPER,
    PAPER_TOPICS,
    Distances,
    examples,
    summarise,
    topic_pairs,
)
from core.evaluation.experiments import ExperimentOptions
from core.evaluation.running import run_and_save
from core.results.app_store import AppStore
from core.results.published import published
from core.steering.workbench import Workbench
from core.text.prompts import Topic, bundled_topics

TOPICS = [
    Topic(name, name.title(), tuple(f"{name} {i}" for i in range(n))) for name, n in (("a", 4), ("b", 3), ("c", 5))
]


def directions(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def chord(degrees: float) -> float:
    """Distance of two points of the unit circle that many degrees apart."""
    return 2 * math.sin(math.radians(abs(degrees)) / 2)


@pytest.fixture(scope="module")
def embeddings() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    rows = [rng.normal(size=(len(topic.prompts), 6)) for topic in TOPICS]
    return [(r / np.linalg.norm(r, axis=1, keepdims=True)).astype(np.float32) for r in rows]


@pytest.fixture(scope="module")
def distances(embeddings: list[np.ndarray]) -> Distances:
    return Distances(TOPICS, embeddings)


def test_summary_by_hand() -> None:
    topics = [Topic("a", "A", ("a0", "a1")), Topic("b", "B", ("b0", "b1"))]
    found = summarise(Distances(topics, [directions([0, 60]), directions([90, 180])]), ["a", "b"], ALL)
    assert found["intra"].tolist() == pytest.approx([1.0, chord(90)])  # 60 degrees: an equilateral triangle
    inter = (chord(90) + chord(180) + chord(30) + chord(120)) / 4
    assert found["inter"].tolist() == pytest.approx([inter, inter])
    # below a's 1.0: only 60 to 90 degrees; below b's sqrt 2: that pair, and not 0 to 90 which equals it
    assert found["inter_closer"].tolist() == [0.25, 0.25]
    # a1 and b0 are each other's nearest; a0's nearest is a1, b1's is b0
    assert found["nearest_own"].tolist() == [0.5, 0.5]
    assert found["n"].tolist() == [2, 2]


def test_summary_equals_loops_over_pairs(distances: Distances, embeddings: list[np.ndarray]) -> None:
    found = summarise(distances, ["a", "c"], "some").set_index("topic")
    a, c = (embeddings[i].astype(float) for i in (0, 2))
    within = [np.linalg.norm(x - y) for x, y in combinations(a, 2)]
    across = [np.linalg.norm(x - y) for x, y in product(a, c)]
    assert found.loc["a", "intra"] == pytest.approx(np.mean(within), abs=1e-6)
    assert found.loc["a", "inter"] == pytest.approx(np.mean(across), abs=1e-6)
    assert found.loc["a", "inter_closer"] == np.mean([d < max(within) for d in across])
    nearest_own = [
        min(np.linalg.norm(x - y) for j, y in enumerate(a) if j != i) < min(np.linalg.norm(x - y) for y in c)
        for i, x in enumerate(a)
    ]
    assert found.loc["a", "nearest_own"] == np.mean(nearest_own)
    by_prompt = [np.mean([np.linalg.norm(x - y) for j, y in enumerate(a) if j != i]) for i, x in enumerate(a)]
    assert min(by_prompt) - 1e-6 <= found.loc["a", "intra_low"] <= found.loc["a", "intra"]
    assert found.loc["a", "intra"] <= found.loc["a", "intra_high"] <= max(by_prompt) + 1e-6


def test_pairs_of_topics_equal_loops(distances: Distances, embeddings: list[np.ndarray]) -> None:
    found = topic_pairs(distances).set_index(["topic", "other"])
    assert len(found) == 9
    for (i, first), (j, second) in product(enumerate("abc"), repeat=2):
        x, y = embeddings[i].astype(float), embeddings[j].astype(float)
        pairs = combinations(x, 2) if i == j else product(x, y)
        expected = [np.linalg.norm(p - q) for p, q in pairs]
        assert found.loc[(first, second), "distance"] == pytest.approx(np.mean(expected), abs=1e-6)
        assert found.loc[(first, second), "pairs"] == len(expected)


def test_examples_are_the_ends_and_use_a_prompt_once(distances: Distances, embeddings: list[np.ndarray]) -> None:
    found = examples(distances)
    prompts = dict(zip(distances.prompts, np.concatenate(embeddings).astype(float), strict=True))
    for row in found.itertuples():
        assert row.distance == pytest.approx(np.linalg.norm(prompts[row.prompt] - prompts[row.other_prompt]), abs=1e-6)
        assert (row.topic == row.other) == (row.kind == "intra")
        assert row.prompt.startswith(row.topic)
        assert row.other_prompt.startswith(row.other)
    x, y = embeddings[0].astype(float), np.concatenate(embeddings[1:]).astype(float)
    across = sorted(np.linalg.norm(p - q) for p, q in product(x, y))
    mine = found[(found["topic"] == "a") & (found["kind"] == "inter")].set_index(["end", "place"])
    assert mine.loc[("nearest", 1), "distance"] == pytest.approx(across[0], abs=1e-6)
    assert mine.loc[("farthest", 1), "distance"] == pytest.approx(across[-1], abs=1e-6)
    for _, group in found.groupby(["topic", "kind", "end"]):
        used = [*group["prompt"], *group["other_prompt"]]
        assert len(used) == len(set(used))
        assert group["place"].tolist() == list(range(1, len(group) + 1))
    # three prompts make one pair of their own, four make two
    assert found[found["kind"] == "intra"].groupby(["topic", "end"]).size().tolist() == [2, 2, 1, 1, 2, 2]
    assert found[found["kind"] == "inter"].groupby(["topic", "end"]).size().max() == N_EXAMPLES


def test_experiment_compares_the_papers_four_as_well(bench: Workbench, tmp_path: Path) -> None:
    names = [*PAPER_TOPICS, "law"]
    options = ExperimentOptions(topics=tuple(bundled_topics()[name] for name in names))
    results, shares = AppStore(tmp_path), []
    tables = run_and_save("distances", bench, options, results, "tiny", lambda _, share: shares.append(share))
    table = tables["distances"]
    assert table.groupby("among", sort=False)["topic"].agg(list).to_dict() == {ALL: names, PAPER: list(PAPER_TOPICS)}
    # what is within a topic does not depend on the others
    np.testing.assert_allclose(table["intra"][:4], table["intra"][5:])
    assert not np.allclose(table["inter"][:4], table["inter"][5:])
    law = bench.embedding_model.embed(bundled_topics()["law"].prompts).astype(float)
    within = np.mean([np.linalg.norm(x - y) for x, y in combinations(law, 2)])
    assert table.set_index(["among", "topic"]).loc[(ALL, "law"), "intra"] == pytest.approx(within, abs=1e-6)
    assert shares == sorted(shares)
    for name, frame in tables.items():
        kept = results.result("tiny", name)
        assert kept is not None
        pd.testing.assert_frame_equal(kept, frame)


@pytest.mark.parametrize("topics", [TOPICS[:1], [TOPICS[0], Topic("d", "D", ("alone",))]])
def test_too_little_to_compare_is_refused(topics: list[Topic], bench: Workbench) -> None:
    message = "distances compare topics: name two or more, each of at least two prompts"
    with pytest.raises(UsageError, match=message):
        run_and_save("distances", bench, ExperimentOptions(topics=tuple(topics)), AppStore(Path("unused")), "tiny")


def test_published_columns_are_exchanged() -> None:
    table = published("topic_distances")
    assert sorted(table["topic"]) == sorted(PAPER_TOPICS)
    assert (table["printed_intra"] > table["printed_inter"]).all()  # the paper's text says the reverse
