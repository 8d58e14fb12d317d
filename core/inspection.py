"""Inspects a user's text: the active neurons on each token, and a ranking of the text's neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from core.build.activations import active_neurons
from core.errors import UsageError
from core.scoring.scorer import ScoredTopic
from core.steering.workbench import Workbench

TOP_NEURONS = 5  # listed for each token
MAX_CHARACTERS = 200_000  # longer texts are refused before they are tokenised

Messages = Sequence[Mapping[str, str]]  # a chat: each with `role` and `content`


@dataclass(frozen=True)
class Inspection:
    """The neurons of one text.

    `tokens` has one row per token, in order:
        token: as text, its leading space kept
        special: whether it is a beginning-of-text or template token; such tokens are left out of all sums
        neurons, activations: its strongest neurons and their activations, strongest first (lists)
        n_active: how many neurons are active on it
        topic_share: sum(|a| * score) / sum(|a|) over its active neurons, 0 to 1; NaN without a topic, on special
            tokens, and if no neuron is active
    `activations` has one row per active (token, neuron): position (from 0), neuron, activation.
    `neurons` has one row per neuron that is active on an ordinary token, largest sum first:
        sum, max: over its activations on ordinary tokens
        tokens: number of ordinary tokens on which it is active
        score, rank: its score for the topic and its rank among the scored neurons; NaN without a topic or a score
    """

    tokens: pd.DataFrame
    activations: pd.DataFrame
    neurons: pd.DataFrame


def inspect_text(
    bench: Workbench, text: str | Messages, scored: ScoredTopic | None = None, top: int = TOP_NEURONS
) -> Inspection:
    """Runs a text through the model and the SAE and collects the active neurons.

    Args:
        text: a text, read as the setup reads its prompts; or a chat's messages, which go through the chat template.
        scored: a topic; its scores are added to the tables.
        top: number of neurons listed for each token.

    Raises:
        UsageError: the text is empty or longer than the model's context.
        ModelFolderError: `text` is a chat, but the tokenizer has no chat template.
    """
    model = bench.model
    contents = [text] if isinstance(text, str) else [message["content"] for message in text]
    if (length := sum(map(len, contents))) > MAX_CHARACTERS:
        raise UsageError(f"the text has {length:,} characters; at most {MAX_CHARACTERS:,} are inspected: take a part")
    prompt = model.tokenise(text) if isinstance(text, str) else model.tokenise_chat(text)
    if all(prompt.special):
        raise UsageError("the text is empty; type at least one word")
    if len(prompt.ids) > model.n_context:
        raise UsageError(f"the text has {len(prompt.ids):,} tokens; {model.name} reads {model.n_context:,}: shorten it")
    x = model.activations(model.pad([prompt]), bench.sae.hook_name)[0]
    position, neuron, activation = (column.cpu().numpy() for column in active_neurons(bench.sae, x))
    rows = pd.DataFrame({"position": position, "neuron": neuron, "activation": activation.astype(np.float64)})
    special = np.array(prompt.special)
    return Inspection(
        tokens=_tokens(model.token_strings(prompt.ids), special, rows, scored, top),
        activations=rows,
        neurons=_neurons(rows[~special[rows["position"]]], scored),
    )


def _tokens(
    strings: Sequence[str], special: np.ndarray, rows: pd.DataFrame, scored: ScoredTopic | None, top: int
) -> pd.DataFrame:
    ordered = rows.sort_values(["position", "activation", "neuron"], ascending=[True, False, True])
    strongest = ordered.groupby("position").head(top).groupby("position").agg(list)
    table = pd.DataFrame({"token": strings, "special": special})
    for column, source in (("neurons", "neuron"), ("activations", "activation")):
        named = strongest[source].to_dict()
        table[column] = [named.get(place, []) for place in range(len(strings))]
    table["n_active"] = np.bincount(rows["position"], minlength=len(strings))
    table["topic_share"] = np.nan
    if scored is not None:
        score = scored.scores.steering_vector()[rows["neuron"]]
        whole = np.bincount(rows["position"], rows["activation"].abs(), minlength=len(strings))
        near = np.bincount(rows["position"], rows["activation"].abs() * score, minlength=len(strings))
        counts = (whole > 0) & ~special
        table.loc[counts, "topic_share"] = near[counts] / whole[counts]
    return table


def _neurons(rows: pd.DataFrame, scored: ScoredTopic | None) -> pd.DataFrame:
    table = rows.groupby("neuron")["activation"].agg(["sum", "max", "count"]).rename(columns={"count": "tokens"})
    table = table.reset_index().sort_values(["sum", "neuron"], ascending=[False, True], ignore_index=True)
    if scored is None:
        return table.assign(score=np.nan, rank=np.nan)
    return table.merge(scored.scores.ranked()[["neuron", "score", "rank"]], on="neuron", how="left")
