"""Names and colours of the training methods and architectures, the same on every page."""

from collections.abc import Mapping
from html import escape

from pages.shared.charts.colours import EDITS

METHODS = {"fast": "FAST", "btp": "BT(P)", "btf": "BT(F)"}
COLOURS = {"fast": EDITS["ft"], "btp": EDITS["none"], "btf": EDITS["vector"]}
VARIANTS = {  # of the shipped comparison; others are shown by their own name
    "btp-in-template": "BT(P), each document as a message",
    "btp-first": "BT(P), first positions too",
    "fast-first": "FAST, first positions too",
    "fast-content": "FAST, special tokens left out",
}
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


def method_title(method: str) -> str:
    """A method, or a variant of one, as tables and legends name it."""
    return METHODS.get(method) or VARIANTS.get(method, method)


def base_method(method: str) -> str | None:
    """The method that a variant varies, by how its name begins; None if it begins with none."""
    return next((base for base in METHODS if method.split("-")[0] == base), None)


def method_colour(method: str) -> str:
    """A method's colour; a variant has that of its method."""
    base = base_method(method)
    return EDITS["weight"] if base is None else COLOURS[base]


def method_dash(method: str) -> str:
    """The line of a method, solid; variants are dotted, so that they can be told from it."""
    return "solid" if method in METHODS else "dot"


def method_swatches(note: str = "") -> str:
    """A legend of the three methods' colours, as HTML."""
    return swatches({title: COLOURS[method] for method, title in METHODS.items()}, note)
