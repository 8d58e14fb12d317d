"""What fires on a user's text: the active neurons on each token, and a ranking of the text's neurons.

The models run once a text (`fired_on`); a topic is then a matter of its scores (`inspection_of`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool

from core.errors import NeuronRangeError, UsageError

if TYPE_CHECKING:  # imports torch, which a saved example does without
    from core.scoring.scorer import ScoredTopic
    from core.scoring.scores import TopicScores
    from core.steering.workbench import Workbench

TOP_NEURONS = 5  # listed for each token
MAX_CHARACTERS = 200_000  # longer texts are refused before they are tokenised

Messages = Sequence[Mapping[str, str]]  # a chat: each with `role` and `content`


@dataclass(frozen=True)
class Fired:
    """Where neurons fire on one text.

    `tokens` are text, leading spaces kept; `special` ones are of the beginning of a text or of the template.
    `rows` has one row per active (token, neuron), in order of tokens: position (from 0), neuron, activation.
    """

    tokens: tuple[str, ...]
    special: Bool[np.ndarray, "token"]
    rows: pd.DataFrame

    def activations(self, neuron: int, d_sae: int) -> pd.Series:
        """One neuron's activation on every token; 0 where it does not fire.

        Raises:
            NeuronRangeError: the SAE has no such neuron.
        """
        if not 0 <= neuron < d_sae:
            raise NeuronRangeError(neuron, d_sae)
        mine = self.rows[self.rows["neuron"] == neuron].set_index("position")["activation"]
        return mine.reindex(range(len(self.tokens)), fill_value=0.0)


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
        contamination: sum(|a| * (1 - score)), see `core.steering.metrics`; NaN where topic_share is
    `activations` has one row per active (token, neuron): position (from 0), neuron, activation.
    `neurons` has one row per neuron that is active on an ordinary token, largest sum first:
        sum, max: over its activations on ordinary tokens
        tokens: number of ordinary tokens on which it is active
        score, rank: its score for the topic and its rank among the scored neurons; NaN without a topic or a score
    """

    tokens: pd.DataFrame
    activations: pd.DataFrame
    neurons: pd.DataFrame


def fired_on(bench: Workbench, text: str | Messages) -> Fired:
    """Runs a text through the model and the SAE and collects the active neurons.

    Args:
        text: a text, read as the setup reads its prompts; or a chat's messages, which go through the chat template.

    Raises:
        UsageError: the text is empty or longer than the model's context.
        ModelFolderError: `text` is a chat, but the tokenizer has no chat template.
    """
    from core.build.activations import active_neurons

    model = bench.model
    contents = [text] if isinstance(text, str) else [message["content"] for message in text]
    if (length := sum(map(len, contents))) > MAX_CHARACTERS:
        raise UsageError(f"the text has {length:,} characters; at most {MAX_CHARACTERS:,} are inspected: take a part")
    if not any(content.strip() for content in contents):
        raise UsageError("the text is empty; type at least one word")
    prompt = model.tokenise(text) if isinstance(text, str) else model.tokenise_chat(text)
    if len(prompt.ids) > model.n_context:
        raise UsageError(f"the text has {len(prompt.ids):,} tokens; {model.name} reads {model.n_context:,}: shorten it")
    x = model.activations(model.pad([prompt]), bench.sae.hook_name)[0]
    position, neuron, activation = (column.cpu().numpy() for column in active_neurons(bench.sae, x))
    rows = pd.DataFrame({"position": position, "neuron": neuron, "activation": activation.astype(np.float64)})
    return Fired(tuple(model.token_strings(prompt.ids)), np.array(prompt.special), rows)


def inspection_of(fired: Fired, scores: TopicScores | None = None, top: int = TOP_NEURONS) -> Inspection:
    """The tables of a text.

    Args:
        scores: of a topic, which are added to the tables.
        top: number of neurons listed for each token.
    """
    ordinary = fired.rows[~fired.special[fired.rows["position"]]]
    return Inspection(_tokens(fired, scores, top), fired.rows, _neurons(ordinary, scores))


def inspect_text(
    bench: Workbench, text: str | Messages, scored: ScoredTopic | None = None, top: int = TOP_NEURONS
) -> Inspection:
    """`fired_on` and `inspection_of` in one.

    Raises:
        UsageError, ModelFolderError: see `fired_on`.
    """
    return inspection_of(fired_on(bench, text), None if scored is None else scored.scores, top)


def _tokens(fired: Fired, scores: TopicScores | None, top: int) -> pd.DataFrame:
    rows, n = fired.rows, len(fired.tokens)
    ordered = rows.sort_values(["position", "activation", "neuron"], ascending=[True, False, True])
    strongest = ordered.groupby("position").head(top).groupby("position").agg(list)
    table = pd.DataFrame({"token": fired.tokens, "special": fired.special})
    for column, source in (("neurons", "neuron"), ("activations", "activation")):
        named = strongest[source].to_dict()
        table[column] = [named.get(place, []) for place in range(n)]
    table["n_active"] = np.bincount(rows["position"], minlength=n)
    table[["topic_share", "contamination"]] = np.nan
    if scores is not None:
        score = scores.steering_vector()[rows["neuron"]]
        whole = np.bincount(rows["position"], rows["activation"].abs(), minlength=n)
        near = np.bincount(rows["position"], rows["activation"].abs() * score, minlength=n)
        counts = (whole > 0) & ~fired.special
        table.loc[counts, "topic_share"] = near[counts] / whole[counts]
        table.loc[counts, "contamination"] = (whole - near)[counts]
    return table


def _neurons(rows: pd.DataFrame, scores: TopicScores | None) -> pd.DataFrame:
    table = rows.groupby("neuron")["activation"].agg(["sum", "max", "count"]).rename(columns={"count": "tokens"})
    table = table.reset_index().sort_values(["sum", "neuron"], ascending=[False, True], ignore_index=True)
    if scores is None:
        return table.assign(score=np.nan, rank=np.nan)
    return table.merge(scores.ranked()[["neuron", "score", "rank"]], on="neuron", how="left")
