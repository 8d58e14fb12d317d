"""What the SAE training page draws: how batches are formed, errors against L0, losses, published errors, tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from pages.shared.charts import layout
from pages.shared.colours import ACCENT, EDITS, UNALIGNED
from pages.shared.columns import number
from pages.shared.glossary import term_link

METHODS = {"fast": "FAST", "btp": "BT(P)", "btf": "BT(F)"}
COLOURS = {"fast": EDITS["ft"], "btp": EDITS["none"], "btf": EDITS["vector"]}
ARCHITECTURES = {
    "standard": "Standard",
    "jumprelu": "JumpReLU",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "gated": "Gated",
}


# ---------------------------------------------------------------- how batches are formed

Kind = Literal["content", "special token", "role word"]
KINDS: dict[str, str] = {
    "content": "rgba(127, 127, 127, 0.24)",
    "special token": ACCENT["dark"],  # seen on both themes' backgrounds
    "role word": "rgba(141, 133, 232, 0.5)",  # the same, half through
}
_OTHER_CONTENT = "rgba(127, 127, 127, 0.46)"  # of every second text, so that neighbours differ
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
    """A token of the example, and which text it belongs to (A, B, C)."""

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
    """The forward passes that a method makes of the example's three texts; a word is a token."""
    if method == "btp":
        texts = [_document(text, label) for text, label in zip(_DOCUMENTS, "ABC", strict=True)]
    else:
        texts = [_conversation(messages, label) for messages, label in zip(_CONVERSATIONS, "ABC", strict=True)]
    if method == "fast":
        return texts
    tokens = [token for text in texts for token in text]
    return [tokens[start : start + EXAMPLE_BLOCK] for start in range(0, len(tokens), EXAMPLE_BLOCK)]


def batches() -> go.Figure:
    """A row a method, its forward passes side by side, every token a cell."""
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
    """Writes above a forward pass what it is, and into it the letter of each text that it holds."""
    alone = f"{tokens[0].text} alone"
    label = alone if method == "fast" else f"block {number_of_pass}"
    common = {"y": METHODS[method], "showarrow": False}
    figure.add_annotation(x=start, text=label, xanchor="left", yshift=22, font={"size": 11}, **common)
    for text in dict.fromkeys(token.text for token in tokens):
        places = [place for place, token in enumerate(tokens) if token.text == text and token.kind == "content"]
        if places:
            middle = places[len(places) // 2]
            figure.add_annotation(x=start + middle + 0.45, text=f"<b>{text}</b>", xanchor="center", **common)


def swatches(colours: Mapping[str, str], note: str = "") -> str:
    """What the colours of a picture mean."""
    marks = "".join(
        f'<span><span class="ss-case" style="background:{colour}"></span>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<p class="ss-legend" style="gap:0.2rem 1rem">{marks}<span>{escape(note)}</span></p>'


def method_swatches(note: str = "") -> str:
    """The colours of the three methods."""
    return swatches({title: COLOURS[method] for method, title in METHODS.items()}, note)


# ---------------------------------------------------------------- results of a training run


@dataclass(frozen=True)
class Figure:
    """A figure of an SAE on held-out text, as tables and pictures show it."""

    name: str  # column of `core.training.method_comparison.compared`
    term: str
    label: str
    format: str
    better: Literal["low", "high"] | None


GROUP = ["model", "hook_name", "expansion", "architecture"]  # SAEs of which only method, lambda and seed differ
_HEADINGS = {"model": "model", "hook_name": "hook point", "expansion": "width", "architecture": "architecture"}
_CELL = "white-space:nowrap;padding-right:0.9rem"
FIGURES = (
    Figure("mse_all_by_sequence", "mse", "MSE all, log2", "{:.3f}", "low"),
    Figure("mse_all_raw", "mse", "MSE all", "", "low"),
    Figure("mse_special_by_sequence", "mse special", "MSE special, log2", "{:.3f}", "low"),
    Figure("mse_special_raw", "mse special", "MSE special", "", "low"),
    Figure("l0", "l0", "L0", "{:.1f}", None),
    Figure("explained_variance", "explained_variance", "expl. variance", "{:.3f}", "high"),
    Figure("dead_share", "dead_share", "dead", "{:.1%}", "low"),
    Figure("ce_recovered", "ce_recovered", "CE recovered", "{:.3f}", "high"),
)


def shown(figure: Figure, row: Mapping[str, float]) -> str:
    """`-1.234 ± 0.012`; without the spread where there is none; `n/a` without a value."""
    value = float(row[figure.name])
    if not math.isfinite(value):
        return "n/a"
    if not figure.format:
        return number(value)
    spread = row.get(f"{figure.name}_spread", math.nan)
    return figure.format.format(value) + (f" ± {figure.format.format(spread)}" if math.isfinite(spread) else "")


def _best(rows: pd.DataFrame, figure: Figure) -> set[object]:
    """Index labels of the rows with the best value as shown; none where only one has a value."""
    values = rows[figure.name].dropna()
    if figure.better is None or len(values) < 2:
        return set()
    best = shown(figure, {figure.name: values.min() if figure.better == "low" else values.max()})
    return {label for label, value in values.items() if shown(figure, {figure.name: value}) == best}


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `compared` or `at_matched_l0`, sorted by settings, lambda and method, with raw errors beside log2."""
    rank = rows["method"].map(list(METHODS).index)
    by = [name for name in [*GROUP, "sparsity"] if name in rows]
    raw = {f"mse_{of}_raw": 2.0 ** rows[f"mse_{of}_by_sequence"] for of in ("all", "special")}
    ordered = rows.assign(**raw, rank=rank).sort_values([*by, "rank"])
    return ordered.drop(columns="rank").reset_index(drop=True)


def _in_words(name: str, value: object) -> str:
    match name:
        case "model":
            return Path(str(value)).name
        case "expansion":
            return f"x{value}"
        case "architecture":
            return ARCHITECTURES[str(value)]
    return f"{value:g}" if isinstance(value, float) else str(value)


def group_label(key: Sequence[object]) -> str:
    """Model, hook point, expansion and architecture in words."""
    return " · ".join(_in_words(name, value) for name, value in zip(GROUP, key, strict=True))


def _differing(rows: pd.DataFrame) -> list[str]:
    return [name for name in GROUP if rows[name].nunique() > 1]


def shared_settings(rows: pd.DataFrame) -> str:
    """The settings that all rows have in common; `results_html` leaves them out."""
    return " · ".join(_in_words(name, rows[name].iloc[0]) for name in GROUP if name not in _differing(rows))


def results_html(rows: pd.DataFrame, *, mark_best: bool) -> str:
    """A table of figures with their spread, a row of `in_order` a row.

    Args:
        mark_best: whether the best of each figure is in bold.
    """
    words = {name: escape(_HEADINGS[name]) for name in _differing(rows)}
    numbers = {"sparsity": term_link("sparsity", "lambda or k"), "seeds": term_link("spread", "seeds")}
    numbers = {name: heading for name, heading in numbers.items() if name in rows}
    best = {figure: _best(rows, figure) if mark_best else set() for figure in FIGURES}
    heads = [f'<th style="{_CELL}">{heading}</th>' for heading in ("method", *words.values())]
    headings = [*numbers.values(), *(term_link(figure.term, figure.label) for figure in FIGURES)]
    heads += [f'<th style="{_CELL};text-align:right">{heading}</th>' for heading in headings]
    body = []
    for label, row in rows.iterrows():
        cells = [f'<th scope="row" style="{_CELL}">{_method_cell(row["method"])}</th>']
        cells += [f'<th style="{_CELL}">{escape(_in_words(name, row[name]))}</th>' for name in words]
        cells += [f'<td style="{_CELL}">{row[name]:g}</td>' for name in numbers]
        for figure in FIGURES:
            marked = "ss-best" if label in best[figure] else ""
            cells.append(f'<td class="{marked}" style="{_CELL}">{shown(figure, row)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    table = f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div style="overflow-x:auto"><table class="ss-figures">{table}</table></div>'


def _method_cell(method: str) -> str:
    return f'<span class="ss-case" style="background:{COLOURS[method]}"></span>{term_link(method, METHODS[method])}'


def errors_against_l0(rows: pd.DataFrame, figure_name: str, title: str, l0: int | None) -> go.Figure:
    """One figure against L0, a line a method through its lambdas; bars are the spread over seeds.

    Args:
        rows: of `compared`, of one model, hook point, expansion and architecture.
        l0: the L0 that the methods are compared at, marked.
    """
    figure = go.Figure()
    for method, mine in rows.sort_values("l0").groupby("method"):
        figure.add_scatter(
            x=mine["l0"],
            y=mine[figure_name],
            mode="lines+markers",
            line={"color": COLOURS[method], "width": 2},
            marker={"size": 7},
            error_x={"array": mine["l0_spread"].fillna(0), "thickness": 1, "width": 0},
            error_y={"array": mine[f"{figure_name}_spread"].fillna(0), "thickness": 1, "width": 0},
            customdata=mine["sparsity"],
            hovertemplate=f"<b>{METHODS[method]}</b> lambda %{{customdata:.3~g}}: L0 %{{x:.3~g}}, %{{y:.4~g}}"
            "<extra></extra>",
        )
    if l0 is not None:
        figure.add_vline(x=l0, line={"color": UNALIGNED, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="L0: active neurons a token")
    figure.update_yaxes(title=title)
    return layout(figure, 300)


@dataclass(frozen=True)
class Curve:
    """What is followed while an SAE trains: a column of the table of losses."""

    title: str
    log: bool
    format: str = ""


_LOG_TICKS = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
CURVES = {
    "loss": Curve("training loss", log=True),
    "l0": Curve("L0", log=True),
    "dead": Curve("dead neurons", log=False, format=".0%"),
}


def loss_curves(losses: pd.DataFrame, column: str) -> go.Figure:
    """One line an SAE over the activations it was trained on.

    Args:
        losses: columns name, method, tokens and `column`.
    """
    figure, curve = go.Figure(), CURVES[column]
    for (method, name), mine in losses.groupby(["method", "name"]):
        figure.add_scatter(
            x=mine["tokens"],
            y=mine[column],
            mode="lines",
            line={"color": COLOURS[method], "width": 1.25},
            opacity=0.75,
            hovertemplate=f"<b>{escape(name)}</b><br>%{{x:,}} activations: %{{y:.3~g}}<extra></extra>",
        )
    figure.update_xaxes(title="activations trained on")
    figure.update_yaxes(title=curve.title, tickformat=curve.format)
    if curve.log:
        figure.update_yaxes(type="log", tickvals=_LOG_TICKS)
    return layout(figure, 300)


# ---------------------------------------------------------------- published figures

_DASHES = {8: "solid", 16: "dot"}


def published_layers(rows: pd.DataFrame, low: float, high: float) -> go.Figure:
    """Published log2 MSE of one model by layer, a line a method and expansion, on an axis from `low` to `high`."""
    figure = go.Figure()
    for (method, expansion), mine in rows.groupby(["method", "expansion"]):
        figure.add_scatter(
            x=mine["layer"].astype(str),
            y=mine["log2_mse"],
            mode="lines+markers",
            line={"color": COLOURS[method], "width": 2, "dash": _DASHES[expansion]},
            marker={"size": 6},
            hovertemplate=f"<b>{METHODS[method]}</b> x{expansion}, layer %{{x}}: %{{y:.4f}}<extra></extra>",
        )
    layers = [str(layer) for layer in sorted(rows["layer"].unique())]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=layers)
    figure.update_yaxes(range=[low, high])
    return layout(figure, 150)
