"""Names and colours of the training methods and architectures, the same on every page."""

from collections.abc import Mapping
from html import escape

from pages.shared.charts.colours import EDITS

METHODS = {"fast": "FAST", "btp": "BT(P)", "btf": "BT(F)"}
COLOURS = {"fast": EDITS["ft"], "btp": EDITS["none"], "btf": EDITS["vector"]}
ARCHITECTURES = {
    "standard": "Standard",
    "jumprelu": "JumpReLU",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "gated": "Gated",
}


def swatches(colours: Mapping[str, str], note: str = "") -> str:
    """A legend of the colours in a chart, as HTML."""
    marks = "".join(
        f'<span><span class="ss-case" style="background:{colour}"></span>{escape(name)}</span>'
        for name, colour in colours.items()
    )
    return f'<p class="ss-legend" style="gap:0.2rem 1rem">{marks}<span>{escape(note)}</span></p>'


def method_swatches(note: str = "") -> str:
    """A legend of the three methods' colours, as HTML."""
    return swatches({title: COLOURS[method] for method, title in METHODS.items()}, note)
