"""The ranking by a second sentence-embedding model, against one worked out prompt by prompt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from core.errors import EmbeddingModelError, UsageError
from core.evaluation.embedding import run, shared_best
from core.evaluation.experiments import ExperimentOptions
from core.models.embeddings import load_embedding_model
from core.settings import ScoreSettings
from core.steering.workbench import Workbench
from core.text.prompts import bundled_topics

TOPICS = tuple(bundled_topics()[name] for name in ("law", "cooking"))


def test_shared_best_by_hand() -> None:
    first, second = np.array([0.9, 0.8, 0.1, 0.0]), np.array([0.9, 0.1, 0.8, 0.0])
    assert [shared_best(first, second, n) for n in (1, 2, 3)] == [1.0, 0.5, 1.0]


def test_same_model_ranks_alike(bench: Workbench) -> None:
    options = ExperimentOptions(topics=TOPICS, embedding=bench.embedding_model.name)
    table = run(bench, options)["embedding"]
    assert table["topic"].tolist() == ["law", "cooking", "all"]
    assert table["tau"].tolist() == pytest.approx([1.0] * 3, abs=2e-3)
    assert table["tau_distances"].tolist() == pytest.approx([1.0] * 3, abs=2e-3)
    assert table["top"].tolist() == pytest.approx([1.0] * 3, abs=0.06)


def test_other_model_ranks_by_its_own_distances(bench: Workbench, embedding_folder: Path) -> None:
    told: list[float] = []
    options = ExperimentOptions(topics=TOPICS, embedding=str(embedding_folder))
    table = run(bench, options, lambda stage, share: told.append(share))["embedding"]
    assert told == sorted(told)
    assert set(table["model"]) == {embedding_folder.name}
    model = load_embedding_model(str(embedding_folder))
    reference = model.embed(bench.store.prompts()["text"].tolist())
    activations = bench.store.summary_matrix("sum").toarray()
    for topic, row in zip(TOPICS, table.to_dict("records"), strict=False):
        own = model.embed(topic.prompts)
        distances = np.array([min(np.linalg.norm(e - p) for p in own) for e in reference])
        active = (activations != 0).sum(axis=0) >= ScoreSettings().min_prompts
        g = (activations.T @ distances)[active] / activations.sum(axis=0)[active]
        ours = bench.score(topic).scores
        assert row["tau"] == pytest.approx(kendalltau(-g, ours.table["score"].dropna()).statistic, abs=5e-3)
        assert row["tau_distances"] == pytest.approx(kendalltau(distances, ours.distances).statistic, abs=5e-3)
    assert table["tau"].iloc[2] == pytest.approx(table["tau"].iloc[:2].mean())


def test_second_model_must_be_named_and_there(bench: Workbench, tmp_path: Path) -> None:
    options = ExperimentOptions(topics=TOPICS)
    with pytest.raises(UsageError, match="--embedding FOLDER"):
        run(bench, options)
    with pytest.raises(EmbeddingModelError, match="cannot load"):
        run(bench, replace(options, embedding=str(tmp_path)))
