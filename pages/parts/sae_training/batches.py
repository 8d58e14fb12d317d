"""How each training method forms its batches, shown on three short texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import plotly.graph_objects as go

from pages.shared.charts.colours import ACCENT
from pages.shared.charts.figures import layout
from pages.shared.charts.methods import METHODS

Kind = Literal["content", "special token", "role word"]
KINDS: dict[str, str] = {
    "content": "rgba(127, 127, 127, 0.24)",
    "special token": ACCENT["dark"],  # visible on both themes' backgrounds
    "role word": "rgba(141, 133, 232, 0.5)",  # the same colour, half transparent
}
_OTHER_CONTENT = "rgba(127, 127, 127, 0.46)"  # for every second text, so that neighbours differ
EXAMPLE_BLOCK = 16  # tokens; 2,048 in the paper
_DOCUMENTS = (
    "Yeast turns sugar into gas and dough rises .",
    "A comet is a lump of ice and dust . Near the sun it warms , and a tail of gas grows .",
    "The town of my childhood had one bridge and two old mills .",
)
_CONVERSATIONS = (
    ("Why does my bread sink ?", "It rose too long before the oven ."),
    ("Is tea fruit ?", "A leaf , dried ."),
    ("Thank you !", "You are welcome ."),
)


@dataclass(frozen=True)
class Token:
    """A token of the example, with the text that it belongs to (A, B, C)."""

    word: str
    kind: Kind
    text: str


def _document(text: str, label: str) -> list[Token]:
    return [*(Token(word, "content", label) for word in text.split()), Token("<|endoftext|>", "special token", label)]


def _conversation(messages: Sequence[str], label: str) -> list[Token]:
    tokens = []
    for role, content in zip(("user", "assistant"), messages, strict=True):
        tokens += [Token("<|im_start|>", "special token", label), Token(role, "role word", label)]
        tokens += [Token(word, "content", label) for word in content.split()]
        tokens += [Token("<|im_end|>", "special token", label)]
    return tokens


def example_passes(method: str) -> list[list[Token]]:
    """The forward passes in which a method runs the example's three texts; each word is a token."""
    if method == "btp":
        texts = [_document(text, label) for text, label in zip(_DOCUMENTS, "ABC", strict=True)]
    else:
        texts = [_conversation(messages, label) for messages, label in zip(_CONVERSATIONS, "ABC", strict=True)]
    if method == "fast":
        return texts
    tokens = [token for text in texts for token in text]
    return [tokens[start : start + EXAMPLE_BLOCK] for start in range(0, len(tokens), EXAMPLE_BLOCK)]


def batches() -> go.Figure:
    """The figure: one row per method, with its forward passes side by side and a cell for every token."""
    figure = go.Figure()
    cells = []
    for method, title in METHODS.items():
        start = 0.0
        for number_of_pass, tokens in enumerate(example_passes(method), start=1):
            _name_pass(figure, method, number_of_pass, start, tokens)
            cells += [(title, start + place, token) for place, token in enumerate(tokens)]
            start += len(tokens) + 1.5
    for kind, colour in KINDS.items():
        mine = [cell for cell in cells if cell[2].kind == kind]
        figure.add_bar(
            orientation="h",
            y=[title for title, _, _ in mine],
            base=[place for _, place, _ in mine],
            x=[0.9] * len(mine),
            marker_color=[_OTHER_CONTENT if kind == "content" and t.text == "B" else colour for _, _, t in mine],
            customdata=[f"<b>{escape(t.word)}</b> {kind} of text {t.text}" for _, _, t in mine],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.update_xaxes(visible=False, fixedrange=True, range=[0, max(place for _, place, _ in cells) + 1])
    titles = list(METHODS.values())
    figure.update_yaxes(categoryorder="array", categoryarray=titles[::-1], fixedrange=True, ticks="", showgrid=False)
    return layout(figure, 190, barmode="overlay", bargap=0.55)


def _name_pass(figure: go.Figure, method: str, number_of_pass: int, start: float, tokens: Sequence[Token]) -> None:
    """Writes the name above a forward pass, and in it the letters of the texts that it holds."""
    alone = f"{tokens[0].text} alone"
    label = alone if method == "fast" else f"block {number_of_pass}"
    common = {"y": METHODS[method], "showarrow": False}
    figure.add_annotation(x=start, text=label, xanchor="left", yshift=22, font={"size": 11}, **common)
    for text in dict.fromkeys(token.text for token in tokens):
        places = [place for place, token in enumerate(tokens) if token.text == text and token.kind == "content"]
        if places:
            middle = places[len(places) // 2]
            figure.add_annotation(x=start + middle + 0.45, text=f"<b>{text}</b>", xanchor="center", **common)
