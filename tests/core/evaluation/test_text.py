import numpy as np
import pandas as pd
import pytest

from core.evaluation.text import SHUFFLED, compare, shuffled_scores, summarise
from core.workbench import FIGURE_NAMES


def _rows() -> pd.DataFrame:
    figures = dict.fromkeys(FIGURE_NAMES, 1.0)
    rows = []
    for topic, shift in (("law", 0.5), ("cooking", 0.1)):
        for prompt, base in (("a", 1.0), ("b", 2.0)):
            rows.append({"topic": topic, "edit": "swap", "prompt": prompt, **figures, "distance": base})
            rows.append({"topic": topic, "edit": SHUFFLED, "prompt": prompt, **figures, "distance": base + shift})
    return pd.DataFrame(rows)


def test_shuffled_scores_permute_only_the_scored() -> None:
    score = np.array([0.0, 0.3, 0.0, 1.0, 0.7], dtype=np.float32)
    shuffled = shuffled_scores(score, seed=1)
    assert shuffled[[0, 2]].tolist() == [0.0, 0.0]
    assert sorted(shuffled.tolist()) == sorted(score.tolist())
    assert any(shuffled_scores(score, seed)[3] != score[3] for seed in range(5))


def test_summarise_gives_means_with_intervals() -> None:
    table = summarise(_rows()).set_index(["topic", "edit"])
    assert table.loc[("law", "swap"), "distance"] == 1.5
    assert table.loc[("law", SHUFFLED), "distance"] == 2.0
    assert table.loc[("law", "swap"), "distance_low"] == pytest.approx(1.0)
    assert table.loc[("law", "swap"), "n"] == 2


def test_compare_pairs_prompts_within_topics() -> None:
    table = compare(_rows(), figures=("distance",)).set_index("topic")
    assert table.loc["law", "difference"] == pytest.approx(-0.5)
    assert table.loc["cooking", "difference"] == pytest.approx(-0.1)
    assert table.loc["all", "difference"] == pytest.approx(-0.3)
    assert table.loc["law", ["low", "high"]].tolist() == pytest.approx([-0.5, -0.5])
    assert table.loc["all", "n"] == 4
