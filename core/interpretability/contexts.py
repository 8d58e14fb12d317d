"""What a rater is shown of a neuron: the five texts on which it is most active (FAST paper, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from core.errors import UsageError
from core.results.app_store import AppStore
from core.store.reader import Context, Store

N_CONTEXTS = 5  # as in the paper
N_NEURONS = 128  # as in the paper
FROM_STORE = "reference prompts"
TABLE = "interpret-contexts"  # contexts from instances of one's own, of the neurons drawn last: in the app's store
_BEFORE, _AFTER = 40, 24  # tokens shown around the strongest one; the paper shows a sentence


@dataclass(frozen=True)
class NeuronContexts:
    """A neuron with its five contexts, strongest first."""

    neuron: int
    contexts: tuple[Context, ...]
    source: str  # where they come from, in words


def shown_part(context: Context) -> tuple[list[str], list[float]]:
    """The tokens around the context's strongest one, with their activations: what a rater sees."""
    peak = int(np.argmax(context.activations))
    part = slice(max(0, peak - _BEFORE), peak + _AFTER + 1)
    return context.tokens[part], context.activations[part].tolist()


def draw(candidates: Sequence[int], n: int, seed: int) -> list[int]:
    """`n` neurons at random, or all where there are fewer; of one seed, a larger draw begins with the smaller ones.

    Raises:
        UsageError: there are no candidates.
    """
    if not len(candidates):
        raise UsageError(f"no neuron fires on {N_CONTEXTS} of these texts: there is nothing to rate; take more texts")
    return [int(neuron) for neuron in np.random.default_rng(seed).permutation(np.sort(candidates))[:n]]


def drawn_from_store(store: Store, n: int, seed: int) -> list[int]:
    """Neurons at random among those that fire on at least five reference prompts.

    Raises:
        UsageError: there are none.
    """
    known = store.neurons()
    return draw(known.loc[known["prompts"] >= N_CONTEXTS, "neuron"].tolist(), n, seed)


def contexts_from_store(store: Store, neuron: int) -> NeuronContexts:
    """A neuron's five reference prompts.

    Raises:
        NeuronRangeError: the SAE has no such neuron.
    """
    return NeuronContexts(neuron, tuple(store.contexts(neuron)[:N_CONTEXTS]), FROM_STORE)


# ---- contexts from instances, which are saved ----


def contexts_table(found: Sequence[NeuronContexts]) -> pd.DataFrame:
    """The contexts as a table that `AppStore` saves, a row a context."""
    return pd.DataFrame(
        [
            {
                "neuron": shown.neuron,
                "source": shown.source,
                "prompt": context.prompt,
                "tokens": context.tokens,
                "activations": context.activations.tolist(),
            }
            for shown in found
            for context in shown.contexts
        ]
    )


def contexts_of(table: pd.DataFrame) -> list[NeuronContexts]:
    """The contexts in a table of `contexts_table`."""
    found = []
    for neuron, rows in table.groupby("neuron", sort=False):
        contexts = []
        for row in rows.itertuples(index=False):
            activations = np.array(row.activations, dtype=np.float32)
            contexts.append(Context(row.prompt, "".join(row.tokens), row.tokens, activations, float(activations.max())))
        found.append(NeuronContexts(int(neuron), tuple(contexts), rows["source"].iloc[0]))
    return found


def saved_contexts(results: AppStore, setup: str) -> list[NeuronContexts]:
    """The contexts from instances that were saved for a setup; none, where there are none."""
    table = results.result(setup, TABLE)
    return [] if table is None else contexts_of(table)
