"""Tokens as HTML spans, shaded by a figure and with more about each on hover. All text is escaped."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from pages.shared.charts.colours import (
    BACKGROUND,
    BORDER,
    CASES,
    LINK,
    RAMP_STEPS,
    SOFT,
    TEXT,
    UNALIGNED,
    Theme,
    ramp,
    ramp_step,
)

RULES = Path(__file__).with_name("style.css")
_HIDDEN = {"\n": "↵\n", "\t": "⇥\t"}  # made visible, with the same effect on the layout


@dataclass(frozen=True)
class Shaded:
    """A token with the figure that shades it (None: not defined, no shading) and its hover text.

    With a `pin`, HTML, a click on the token keeps that beside the text, until another token is clicked.
    """

    text: str
    value: float | None = None
    tip: str = ""
    pin: str = ""


def _visible(text: str) -> str:
    for character, shown in _HIDDEN.items():
        text = text.replace(character, shown)
    return escape(text)


def token_spans(tokens: Sequence[Shaded], largest: float, *, least: float = 0.0, prefix: str = "") -> str:
    """The tokens as one HTML paragraph; a figure of `largest` gets the full accent colour.

    Args:
        least: a figure of so much or less gets the background's.
        prefix: plain text before the tokens (a prompt), in a muted colour.
    """
    spans = [f'<span class="ss-prefix">{_visible(prefix)}</span>'] if prefix else []
    for token in tokens:
        step = "" if token.value is None else f" ss-{ramp_step(token.value - least, largest - least)}"
        tip = f' data-tip="{escape(token.tip)}"' if token.tip else ""
        if token.pin:
            spans.append(
                f'<label class="ss{step}"{tip}><input type="radio" name="ss-pin">{_visible(token.text)}'
                f'<span class="ss-pin">{token.pin}</span></label>'
            )
        else:
            spans.append(f'<span class="ss{step}"{tip}>{_visible(token.text)}</span>')
    block = "div" if any(token.pin for token in tokens) else "p"  # a paragraph cannot hold a pin's table
    return f'<{block} class="ss-text" dir="auto">{"".join(spans)}</{block}>'


def legend(low: str, high: str, label: str) -> str:
    """The colour ramp with its two ends labelled, as HTML."""
    cells = "".join(f'<span class="ss-cell ss-{step}"></span>' for step in range(RAMP_STEPS))
    ends = f'{escape(low)} <span class="ss-ramp">{cells}</span> {escape(high)}'
    return f'<p class="ss-legend">{escape(label)}: {ends}</p>'


def token_list(tokens: Sequence[str]) -> str:
    """Tokens side by side, each in its own frame so that white space is visible, as HTML."""
    return "".join(f'<code class="ss-token">{_visible(token)}</code>' for token in tokens)


def counted_tokens(rows: Iterable[tuple[str, int, int]]) -> str:
    """Framed tokens with counts, as HTML: `7`, or `7/33` if it was counted on 7 of its 33 occurrences.

    Args:
        rows: token, how often it was counted, and how often it occurs.
    """
    chips = []
    for token, times, places in rows:
        share = f"{times:,}" if times == places else f"{times:,}/{places:,}"
        chips.append(f'<code class="ss-token">{_visible(token)}<small> {share}</small></code>')
    return "".join(chips)


def case_mark(case: str) -> str:
    """The neuron's case in words, with its colour in front, as HTML."""
    return f'<span class="ss-case" style="background:{CASES[case]}"></span>{escape(case)}'


def _both(colours: dict[Theme, str]) -> str:
    return f"light-dark({colours['light']}, {colours['dark']})"


def style_sheet() -> str:
    """The CSS classes used by this package, for both themes."""
    variables = {
        "line": _both(BORDER),
        "link": _both(LINK),
        "soft": _both(SOFT),
        "tip": _both(TEXT),
        "tip-text": _both(BACKGROUND),
        "unaligned": UNALIGNED,
    }
    rules = [f".stApp {{ {' '.join(f'--ss-{name}: {value};' for name, value in variables.items())} }}"]
    for step, (light, dark) in enumerate(zip(ramp("light"), ramp("dark"), strict=True)):
        background, text = (_both({"light": a, "dark": b}) for a, b in zip(light, dark, strict=True))
        rules.append(f".ss-{step} {{ background: {background}; color: {text}; }}")
    return f"<style>{RULES.read_text(encoding='utf-8')}{''.join(rules)}</style>"
