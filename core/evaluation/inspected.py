"""The text that the page My text opens with, run through the models and saved, so that it is there before they load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from core.evaluation.experiments import ExperimentOptions
from core.inspection import Fired, fired_on
from core.progress import Progress

if TYPE_CHECKING:
    from core.steering.workbench import Workbench

# half of it on the topic that the app opens with, half of it far away
EXAMPLE_TEXT = (
    "The surgeon opened his chest at dawn. By noon the new valve was in place, and the heart, which had stood still "
    "for an hour, began to beat again. His daughter ran down to the harbour, bought two coffees and a newspaper, and "
    "came back to read him the football results."
)
TABLES = ("inspected", "inspected-tokens")


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `inspected`, one row per active (token, neuron), and `inspected-tokens`, one row per token."""
    fired = fired_on(workbench, EXAMPLE_TEXT)
    tokens = pd.DataFrame({"token": fired.tokens, "special": fired.special, "text": EXAMPLE_TEXT})
    return {"inspected": fired.rows, "inspected-tokens": tokens}


def restored(tables: Mapping[str, pd.DataFrame]) -> Fired | None:
    """Where neurons fire on the saved text; None if that is another text than `EXAMPLE_TEXT`."""
    rows, tokens = (tables[name] for name in TABLES)
    if (tokens["text"] != EXAMPLE_TEXT).any():
        return None
    return Fired(tuple(tokens["token"]), np.asarray(tokens["special"], dtype=bool), rows)
