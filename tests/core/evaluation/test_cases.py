"""The check of cases told by chance: false alarms on topics that mean nothing, and held-out halves of real ones."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.build.pipeline import build
from core.catalog import find_setup
from core.evaluation import cases
from core.evaluation.experiments import ExperimentOptions, find_experiments
from core.evaluation.topk import Firing, firing_on
from core.scoring import nonsense
from core.scoring.chance import SIDES
from core.settings import ScoreSettings
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.text.prompts import Topic, unaligned_prompts

SETUP = "gpt2-topk"
TOPIC = Topic("soup", "Soup", tuple(f"a bowl of {what} soup with bread" for what in ("pea", "leek", "bean", "fish")))


@pytest.fixture
def bench(tmp_path: Path, user_setups: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    monkeypatch.setattr(nonsense, "N_TOPICS", 50)
    monkeypatch.setattr(nonsense, "N_LINES", 60)
    nonsense.embedded_lines.cache_clear()
    build(find_setup(SETUP, user_setups), tmp_path)
    with Store.open(tmp_path, SETUP) as store:
        yield open_workbench(find_setup(SETUP, user_setups), store)
    nonsense.embedded_lines.cache_clear()


def test_shares_of_tokens_by_hand() -> None:
    own = Firing(list("abcd"), np.array([0, 0, 1, 3]), np.array([5, 7, 7, 9]))
    other = Firing(list("abcdefgh"), np.array([0, 1, 2]), np.array([5, 5, 7]))
    assert cases._share(own, np.array([5, 7])) == 0.5  # tokens a and b of four
    assert cases._share(other, np.array([9])) == 0
    # neuron 5: 1/4 against 2/8, not more; 7: 2/4 against 1/8; 9: 1/4 against none
    assert cases._stronger(own, other, np.array([5, 7, 9])) == 2


def test_false_alarms_are_those_of_topics_scored_one_by_one(bench: Workbench) -> None:
    table = cases.false_alarms(bench, lambda stage, share: None).set_index(["topics", "prompts"])
    assert len(table) == len(cases.KINDS) * len(cases.CHECKED_SIZES)
    size, settings = 2, ScoreSettings()
    chance = bench.chance(size, settings)
    for number, (kind, title) in enumerate(cases.KINDS.items()):
        rows = nonsense.embedded_lines(bench.embedding_model, kind, cases._SEED)
        lines = nonsense.lines(kind, nonsense.N_LINES, cases._SEED)
        chosen = nonsense.draws(len(rows), size, cases._SEED + number)
        shown = []
        for topic in chosen:
            scored = bench.score(Topic("t", "t", tuple(lines[i] for i in topic)))
            shown.append(set(chance.cases(scored.scores, bench.store.weight_squares(settings.summary))["case"]))
        for side in SIDES:
            assert table.loc[(title, size), side] == pytest.approx(np.mean([side in one for one in shown]), abs=0.021)


def test_tables_and_a_topic_of_one_prompt_which_has_no_half(bench: Workbench) -> None:
    options = ExperimentOptions(topics=(TOPIC, Topic("one", "One", ("a single line",))))
    tables = find_experiments("cases")["cases"].run(bench, options)
    assert tables["cases-held-out"]["topic"].tolist() == ["soup"]
    assert tables["cases-alarms"][list(SIDES)].stack().between(0, 1).all()


def test_held_out_half_is_not_scored_by(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Topic] = []

    def no_aligned(scored) -> pd.DataFrame:  # type: ignore[no-untyped-def]
        asked.append(scored.topic)
        return pd.DataFrame({"neuron": [3, 4], "case": ["aligned", "not told apart"]})

    monkeypatch.setattr(bench, "cases", no_aligned)
    unaligned = firing_on(bench, unaligned_prompts())
    row = cases.held_out(bench, TOPIC, unaligned)
    assert asked[0].prompts == TOPIC.prompts[::2]
    others = firing_on(bench, TOPIC.prompts[1::2])
    assert row["aligned_neurons"] == 1
    assert row["held_out"] == cases._share(others, np.array([3]))
    assert row["unaligned"] == cases._share(unaligned, np.array([3]))
