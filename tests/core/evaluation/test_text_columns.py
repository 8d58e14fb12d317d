"""The columns of the text experiment: which neurons they force, and how their strength is chosen."""

import numpy as np
import pandas as pd
import pytest

from core.evaluation.text_columns import TUNED, TopicColumns, best_by_output, shuffled_scores, steering_scores
from core.settings import GenerationSettings
from core.steering.settings import SteeringSettings
from core.steering.workbench import Workbench
from core.text.prompts import Topic

LAW = Topic("law", "Law", ("A contract is void.", "The court rules on the case."))


@pytest.fixture
def columns(bench: Workbench) -> TopicColumns:
    generation = GenerationSettings(max_new_tokens=3, seed=1)
    return TopicColumns(bench=bench, scored=bench.score(LAW), steering=SteeringSettings(n=3), generation=generation)


def test_shuffled_scores_permute_only_the_scored() -> None:
    score = np.array([0.0, 0.3, 0.0, 1.0, 0.7], dtype=np.float32)
    shuffled = shuffled_scores(score, seed=1)
    assert shuffled[[0, 2]].tolist() == [0.0, 0.0]
    assert sorted(shuffled.tolist()) == sorted(score.tolist())
    assert any(shuffled_scores(score, seed)[3] != score[3] for seed in range(5))


def test_best_by_output_looks_among_the_best_scored() -> None:
    ranked = pd.DataFrame({"neuron": np.arange(100, 200)})  # 5% are five: 100 to 104
    output = pd.DataFrame({"neuron": [103, 150, 101, 104, 100], "output_score": [0.2, 0.9, 0.3, 0.2, -0.1]})
    assert best_by_output(ranked, output, 3) == [101, 103, 104]
    assert best_by_output(ranked, output, 2) == [101, 103]


def test_columns_force_the_neurons_that_they_are_named_after(columns: TopicColumns, bench: Workbench) -> None:
    ranked = columns.scored.scores.ranked()["neuron"].tolist()
    assert list(columns.neurons("clamp-tuned")) == list(columns.neurons("add")) == ranked[:3]
    random = columns.neurons("random").tolist()
    assert len(set(random)) == 3
    assert set(random) <= set(ranked)
    # the strawman's neurons fire on most of the topic's tokens
    fires = np.zeros(bench.sae.d_sae)
    for prompt in LAW.prompts:
        tokens = bench.model.pad([bench.model.tokenise(prompt)])
        x = bench.model.activations(tokens, bench.sae.hook_name)[~tokens.special]
        fires += (bench.sae.select(bench.sae.pre_activations(x)).dense(bench.sae.d_sae) != 0).sum(0).numpy()
    assert sorted(fires[columns.neurons("strawman")]) == sorted(np.sort(fires)[-3:])


@pytest.mark.parametrize("name", ["clamp-tuned", "random", "strawman", "add"])
def test_strength_multiplies_the_reference_value(columns: TopicColumns, bench: Workbench, name: str) -> None:
    (placed,) = columns.at_strength(name, 2.0).placed
    reference = bench.store.reference_max()
    expected = {int(i): pytest.approx(2.0 * reference[i]) for i in columns.neurons(name)}
    if name == "add":
        assert dict(placed.edit.alphas) == expected
    else:
        assert dict(zip(placed.edit.neurons.tolist(), placed.edit.values.tolist(), strict=True)) == expected


def test_vector_strength_multiplies_the_difference_in_means(columns: TopicColumns, bench: Workbench) -> None:
    (placed,) = columns.at_strength("vector", 4.0).placed
    assert placed.edit.alpha == 4.0
    np.testing.assert_allclose(placed.edit.direction.numpy(), bench.direction(LAW).numpy(), atol=1e-6)


def test_strength_is_chosen_once(columns: TopicColumns) -> None:
    first = columns.way("vector")
    assert len(columns.trials) == len(TUNED["vector"])
    assert columns.strengths["vector"] == first.placed[0].edit.alpha
    columns.way("vector")
    assert len(columns.trials) == len(TUNED["vector"])


def test_steering_scores_by_hand() -> None:
    unsteered = pd.DataFrame(
        {"topic_percentile": [50.0, 50, 50], "perplexity": [10.0, 20, 90], "distinct_2": [0.8] * 3}
    )
    figures = pd.DataFrame(
        {"topic_percentile": [0.0, 50, 50], "perplexity": [40.0, 20, np.nan], "distinct_2": [0.8, 0.4, 0.8]},
        index=[7, 8, 9],
    )
    scores = steering_scores(figures, unsteered)  # usual perplexity 20, the median
    assert scores.index.tolist() == [7, 8, 9]
    assert scores["concept"].tolist() == [2.0, 1.0, 1.0]
    assert scores["fluency"].tolist()[:2] == [1.0, 1.0]
    assert scores["concept_fluency"].tolist()[:2] == pytest.approx([4 / 3, 1.0])
    assert scores.loc[9, ["fluency", "concept_fluency"]].isna().all()
