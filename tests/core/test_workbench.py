"""The figures of a column against explicit computations, on a tiny GPT-2 and its SAE."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from core.build import build
from core.catalog import find_setup
from core.prompts import Topic
from core.settings import GenerationSettings
from core.store import Store
from core.workbench import SteeringSettings, Workbench, open_workbench

TOPIC = Topic("law", "Law", ("A contract is void.", "The court rules."))
SETTINGS = GenerationSettings(max_new_tokens=5, seed=2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Iterator[Workbench]:
    root = tmp_path_factory.mktemp("bench")
    setup = find_setup("gpt2-topk", user_setups)
    build(setup, root)
    with Store.open(root, setup.name) as store:
        yield open_workbench(setup, store)


def test_column_measures_distance_from_the_nearest_topic_prompt(bench: Workbench) -> None:
    scored = bench.score(TOPIC)
    column = bench.column("none", None, ["The judge"], scored, SETTINGS)
    text = bench.embedding_model.embed([column.generations[0].text])[0].astype(np.float64)
    nearest = min(np.linalg.norm(text - row) for row in scored.embeddings.astype(np.float64))
    assert column.figures[0]["distance"] == pytest.approx(nearest, abs=1e-5)
    farther = (scored.scores.distances < nearest).mean() * 100
    assert column.figures[0]["topic_percentile"] == pytest.approx(farther, abs=1.1)


def test_column_perplexity_is_that_of_the_unsteered_model(bench: Workbench) -> None:
    scored = bench.score(TOPIC)
    edit = bench.edit("clamp", scored, SteeringSettings())
    column = bench.column("clamp", edit, ["The judge"], scored, SETTINGS)
    made = column.generations[0]
    ids = torch.tensor([made.prompt_tokens.ids + made.ids])
    losses = torch.nn.functional.cross_entropy(bench.model.model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    expected = losses[-len(made.ids) :].mean().exp()
    assert column.figures[0]["perplexity"] == pytest.approx(float(expected), rel=1e-4)


def test_column_without_topic_has_no_distance(bench: Workbench) -> None:
    column = bench.column("sae", bench.edit("sae", None, SteeringSettings()), ["The judge"], None, SETTINGS)
    assert np.isnan(column.figures[0]["distance"])
    assert np.isnan(column.figures[0]["contamination"])
    assert np.isfinite(column.figures[0]["perplexity"])


def test_sae_ignores_keep_error(bench: Workbench) -> None:
    settings = [SteeringSettings(keep_error=keep) for keep in (False, True)]
    texts = [bench.column("sae", bench.edit("sae", None, s), ["The judge"], None, SETTINGS) for s in settings]
    assert texts[0].generations[0].ids == texts[1].generations[0].ids
