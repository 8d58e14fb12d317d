"""The inspected text as HTML: shaded tokens, more about each on hover, and one pinned beside the text by a click."""

from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from core.inspection import Fired, Inspection
from core.results.names import Names, NeuronName
from pages.shared.columns import number
from pages.shared.names import neuron_link
from pages.shared.tokens import Shaded, legend, token_list, token_spans

Shading = Literal["neuron", "topic score", "contamination"]
SHADINGS: tuple[Shading, ...] = ("neuron", "topic score", "contamination")
_HINT = "Hover over a token, or click one to keep its neurons here."


@dataclass(frozen=True)
class Shades:
    """One figure for each token (NaN: none), the two ends of its shading, and what it is."""

    values: Float[np.ndarray, "token"]
    low: float
    high: float
    label: str


def shades(fired: Fired, found: Inspection, shading: Shading, name: NeuronName, d_sae: int) -> Shades:
    """What shades the tokens. A topic score begins at the text's lowest, as they lie close together."""
    ordinary = ~fired.special
    if shading == "neuron":
        values = fired.activations(name.neuron, d_sae).to_numpy().copy()
        label = f"activation of {name}"
    elif shading == "topic score":
        values, label = found.tokens["topic_share"].to_numpy(), "topic score of the token's neurons"
    else:
        values, label = found.tokens["contamination"].to_numpy(), "contamination"
    values = np.where(ordinary, values, np.nan)
    known = values[np.isfinite(values)]
    low = float(known.min()) if shading == "topic score" and len(known) else 0.0
    return Shades(values, low, float(known.max()) if len(known) else 0.0, label)


def _facts(row: pd.Series) -> list[str]:
    if not np.isfinite(row["topic_share"]):
        return []
    return [f"topic score {number(row['topic_share'])}", f"contamination {number(row['contamination'])}"]


def _tip(row: pd.Series, names: Names) -> str:
    lines = [f"{names[n]}: {number(a)}" for n, a in zip(row["neurons"], row["activations"], strict=True)]
    return "\n".join([*lines, *_facts(row)])


def _pin(row: pd.Series, position: int, names: Names) -> str:
    """What stands beside the text while the token is pinned."""
    rows = "".join(
        f"<tr><td>{neuron_link(names[n])}</td><td>{number(a)}</td></tr>"
        for n, a in zip(row["neurons"], row["activations"], strict=True)
    )
    more = row["n_active"] - len(row["neurons"])
    last = " · ".join([*_facts(row), *([f"{more:,} more neurons"] if more > 0 else [])])
    kind = "special token" if row["special"] else "token"
    return (
        f"<b>{token_list([row['token']])}</b> <small>{kind} {position}</small>"
        f'<table class="ss-figures">{rows}</table><small>{escape(last)}</small>'
    )


def text_html(found: Inspection, shown: Shades, names: Names) -> str:
    """The legend, and the text with its pinned token beside it."""
    tokens = [
        Shaded(
            row["token"],
            None if np.isnan(value) else value - shown.low,
            _tip(row, names),
            _pin(row, position, names),
        )
        for position, ((_, row), value) in enumerate(zip(found.tokens.iterrows(), shown.values, strict=True))
    ]
    return (
        f"{legend(number(shown.low) if shown.low else '0', number(shown.high), shown.label)}"
        f'<div class="ss-pinned">{token_spans(tokens, shown.high - shown.low)}<p class="ss-hint">{_HINT}</p></div>'
    )
