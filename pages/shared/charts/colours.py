"""Every colour of the app: categories from Okabe and Ito's palette, and one ramp for continuous values."""

from functools import cache
from typing import Literal

Theme = Literal["light", "dark"]

# each edit has one colour, the same on every page
EDITS = {
    "none": "#7F7F7F",
    "sae": "#56B4E9",
    "clamp": "#D55E00",
    "swap": "#009E73",
    "weight": "#CC79A7",
    "vector": "#E69F00",
    "prompt": "#B8860B",
    "ft": "#0072B2",
    "add": "#AA4499",  # Tol's muted purple, as Okabe and Ito's eight are taken
}
ALIGNED, UNALIGNED = EDITS["swap"], EDITS["none"]
CASES = {
    "aligned": ALIGNED,
    "polysemantic": f"linear-gradient(135deg, {ALIGNED} 50%, {UNALIGNED} 50%)",
    "unaligned": UNALIGNED,
    **dict.fromkeys(("not told apart", "too rare", "too dense"), "transparent"),
}

# as in .streamlit/config.toml
BACKGROUND: dict[Theme, str] = {"light": "#FFFFFF", "dark": "#15161A"}
ACCENT: dict[Theme, str] = {"light": "#4F46A5", "dark": "#8D85E8"}
LINK: dict[Theme, str] = {"light": "#4F46A5", "dark": "#A9A3F2"}
SOFT: dict[Theme, str] = {"light": "#63636B", "dark": "#A5A5B2"}  # of captions
TEXT: dict[Theme, str] = {"light": "#1D1D22", "dark": "#E8E8EC"}
BORDER: dict[Theme, str] = {"light": "#DCDCE3", "dark": "#35363F"}

RAMP_STEPS = 11
MIN_CONTRAST = 4.5  # of text on its background: WCAG 2.2, 1.4.3

_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
_FROM_LAB = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_FROM_LMS = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)

Vector = tuple[float, ...]


def _times(matrix: tuple[Vector, ...], vector: Vector) -> Vector:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def _linear(colour: str) -> Vector:
    """Linear red, green, blue of `#RRGGBB`, 0 to 1."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return tuple(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)


def _hex(linear: Vector) -> str:
    def encoded(c: float) -> int:
        c = min(1.0, max(0.0, c))
        return round(255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055))

    return "#" + "".join(f"{encoded(c):02X}" for c in linear)


def _oklab(colour: str) -> Vector:
    return _times(_TO_LAB, tuple(c ** (1 / 3) for c in _times(_TO_LMS, _linear(colour))))


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio of two colours, 1 to 21."""
    weights = (0.2126, 0.7152, 0.0722)
    darker, lighter = sorted(sum(w * c for w, c in zip(weights, _linear(x), strict=True)) for x in (first, second))
    return (lighter + 0.05) / (darker + 0.05)


@cache
def ramp(theme: Theme) -> list[tuple[str, str]]:
    """Pairs (background, text) from the page's background to the accent, in even steps of OKLab (Ottosson 2020).

    The text has the theme's colour where it stays readable, otherwise black or white, one of which always is.
    """
    start, end = _oklab(BACKGROUND[theme]), _oklab(ACCENT[theme])
    steps = []
    for i in range(RAMP_STEPS):
        share = i / (RAMP_STEPS - 1)
        lab = tuple(a + share * (b - a) for a, b in zip(start, end, strict=True))
        background = _hex(_times(_FROM_LMS, tuple(c**3 for c in _times(_FROM_LAB, lab))))
        texts = (TEXT[theme], "#000000", "#FFFFFF")
        steps.append((background, next(text for text in texts if contrast(background, text) >= MIN_CONTRAST)))
    return steps


def ramp_step(value: float, largest: float) -> int:
    """The step of the ramp for a value between 0 and `largest`; only the value 0 has step 0."""
    if largest <= 0 or value <= 0:
        return 0
    return max(1, round(min(1.0, value / largest) * (RAMP_STEPS - 1)))
