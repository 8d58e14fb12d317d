"""Few examples and privacy: copies and losses by hand, and every column on a tiny model."""

import numpy as np
import pandas as pd
import pytest
import torch

from core.evaluation.experiments import ExperimentOptions
from core.evaluation.few import COLUMNS, FIGURES, longest_copy, losses, run, summarise
from core.settings import GenerationSettings
from core.steering.settings import SteeringSettings
from core.steering.ways import Way
from core.steering.workbench import Workbench
from core.text.prompts import Topic, bundled_topics

LAW = Topic("law", "Law", bundled_topics()["law"].prompts[:3])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("the court heard", 3), ("a COURT heard the case", 4), ("case the heard", 1), ("", 0), ("nothing", 0)],
)
def test_longest_copy_counts_words_in_a_row(text: str, expected: int) -> None:
    assert longest_copy(text, ["The court heard the case", "else"]) == expected


def test_losses_equal_those_of_the_model(bench: Workbench) -> None:
    found = losses(bench.model, Way("none"), LAW.prompts)
    for prompt, loss in zip(LAW.prompts, found, strict=True):
        tokens = bench.model.tokenise(prompt)
        ids = torch.tensor([tokens.ids])
        predicted = bench.model.model(ids).logits[0, :-1].log_softmax(-1)
        own = -predicted.gather(-1, ids[0, 1:, None])[:, 0]
        read = ~torch.tensor(tokens.special[1:])
        assert loss == pytest.approx(float(own[read].mean()), rel=1e-4)


def test_losses_are_those_of_the_steered_model(bench: Workbench) -> None:
    scored = bench.score(LAW)
    plain, zero, clamp = (
        losses(bench.model, bench.way(name, scored, settings), LAW.prompts)
        for name, settings in (
            ("none", SteeringSettings()),
            ("clamp", SteeringSettings(n=0, keep_error=True)),
            ("clamp", SteeringSettings()),
        )
    )
    np.testing.assert_allclose(plain, zero, rtol=1e-4)
    assert (clamp != plain).all()


def test_summary_takes_topics_together() -> None:
    labels = [(topic, prompt) for topic in ("law", "cooking") for prompt in ("a", "b")]
    rows = pd.DataFrame(labels, columns=["topic", "prompt"]).assign(given=1, edit="swap", **dict.fromkeys(FIGURES, 1.0))
    rows["distance"] = [1.0, 2.0, 3.0, 4.0]
    rows["exposure"] = [0.5, 0.5, 1.5, 1.5]
    (line,) = summarise(rows).to_dict("records")
    assert (line["n"], line["topics"], line["distance"], line["exposure"]) == (2, 2, 2.5, 1.0)
    assert (line["distance_low"], line["distance_high"]) == (2.0, 3.0)


def test_run_gives_a_topic_by_each_number_of_prompts(bench: Workbench) -> None:
    told: list[float] = []
    options = ExperimentOptions(topics=(LAW,), n=2, generation=GenerationSettings(max_new_tokens=3))
    tables = run(bench, options, lambda stage, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] == 1.0
    rows = tables["few-rows"]
    assert list(rows.groupby(["given", "edit"], sort=False).groups) == [(n, name) for n in (1, 2) for name in COLUMNS]
    assert rows.loc[rows["edit"] == "none", "exposure"].tolist() == [0.0] * 4
    assert rows.loc[rows["edit"] == "ft", "exposure"].min() > 0  # it has learned the prompts that it was given
    whole = bench.score(LAW)
    made = bench.together([Way("none")], rows["prompt"][:2].tolist(), whole, options.generation).finish()
    assert rows["distance"][:2].tolist() == [figures["distance"] for figures in bench.figures(made, whole)]
    assert tables["few"][["given", "edit", "n"]].values.tolist() == [[n, name, 2] for n in (1, 2) for name in COLUMNS]
