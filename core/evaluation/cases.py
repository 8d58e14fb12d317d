"""Do the cases that are told by chance keep what they promise? (`core.scoring.chance`; Topic Alignment paper, 3.1.)

Two checks. Topics that mean nothing, none of which the rule was measured on: the share that shows any neuron of a case.
And topics that mean something, held out: neurons aligned by half of a topic's prompts, on the other half and on the
unaligned prompts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from core.evaluation.experiments import ExperimentOptions
from core.evaluation.topk import Firing, firing_on
from core.progress import Progress
from core.scoring.chance import LEVEL, SIDES
from core.scoring.nonsense import LineKind, Meaningless, embedded_lines
from core.settings import ScoreSettings
from core.steering.workbench import Workbench
from core.text.prompts import Topic, unaligned_prompts

CHECKED_SIZES = (1, 2, 6, 20)  # prompts of a topic that means nothing
KINDS: dict[LineKind, str] = {
    "random": "random words",
    "common": "words drawn from all prompts",
    "shuffled": "each prompt's own words shuffled",  # no nonsense while they are few: they keep their subject
}
_SEED = 1_000  # far from the seeds that the rule was measured with


def false_alarms(workbench: Workbench, progress: Progress) -> pd.DataFrame:
    """For each kind of meaningless topic and number of prompts, the share of topics with a neuron of each case."""
    settings, model = ScoreSettings(), workbench.embedding_model
    meaningless, rows = Meaningless(workbench.store, settings), []
    for place, size in enumerate(CHECKED_SIZES):
        chance = workbench.chance(size, settings)
        for number, (kind, title) in enumerate(KINDS.items()):
            progress("meaningless topics", (place + number / len(KINDS)) / len(CHECKED_SIZES))
            found = meaningless.deviations(embedded_lines(model, kind, _SEED), size, _SEED + number)
            row: dict[str, object] = {"topics": title, "prompts": size, "level": LEVEL}
            for side in SIDES:
                row[side] = float(chance.alarms(side, found[side]).mean())
            rows.append(row)
    return pd.DataFrame(rows)


def _share(text: Firing, neurons: np.ndarray) -> float:
    """Share of the text's tokens on which any of the neurons fires."""
    return len(np.unique(text.token[np.isin(text.neuron, neurons)])) / len(text.tokens)


def _stronger(own: Firing, other: Firing, neurons: np.ndarray) -> int:
    """How many of the neurons fire on a larger share of the first text's tokens than of the second's."""
    counts = [np.bincount(t.neuron, minlength=neurons.max() + 1)[neurons] / len(t.tokens) for t in (own, other)]
    return int((counts[0] > counts[1]).sum())


def held_out(workbench: Workbench, topic: Topic, unaligned: Firing) -> dict[str, object]:
    """Neurons aligned by every second prompt of a topic, on its other prompts and on unaligned ones."""
    scored = workbench.score(replace(topic, prompts=topic.prompts[::2]))
    cases = workbench.cases(scored)
    neurons = cases.loc[cases["case"] == "aligned", "neuron"].to_numpy()
    row: dict[str, object] = {"topic": topic.name, "aligned_neurons": len(neurons)}
    if not len(neurons):
        return row | {"held_out": np.nan, "unaligned": np.nan, "stronger_on_topic": 0}
    others = firing_on(workbench, topic.prompts[1::2])
    return row | {
        "held_out": _share(others, neurons),
        "unaligned": _share(unaligned, neurons),
        "stronger_on_topic": _stronger(others, unaligned, neurons),
    }


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `cases-alarms` and `cases-held-out`.

    Raises:
        ScoringError: no neuron fires on enough reference prompts.
    """
    alarms = false_alarms(workbench, lambda stage, share: progress(stage, 0.7 * share))
    unaligned, rows = firing_on(workbench, unaligned_prompts()), []
    for number, topic in enumerate(options.topics):
        progress("held-out prompts", 0.7 + 0.3 * number / len(options.topics))
        if len(topic.prompts) > 1:
            rows.append(held_out(workbench, topic, unaligned))
    columns = ["topic", "aligned_neurons", "held_out", "unaligned", "stronger_on_topic"]
    return {"cases-alarms": alarms, "cases-held-out": pd.DataFrame(rows, columns=columns)}
