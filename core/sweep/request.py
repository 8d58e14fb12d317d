"""The settings of an alpha sweep, checked before a model is loaded: alphas, questions, neurons, names of its tables.

A sweep adds one neuron's decoder row, times alpha, to the residual stream (FAST paper, Eq. 8 and section 6).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import field
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import pandas as pd

from core.catalog import listed_setups
from core.errors import ChatSetupError, NeuronRangeError, SettingsError, UsageError
from core.store.reader import Store
from core.text.prompts import questions as bundled_questions
from core.text.prompts import read_few_prompts
from core.validated import Count, Several, validated

AUTO = "auto"
MAX_ALPHAS = 33  # per question; they share a batch
_MAX_EXPONENT = 30  # of an alpha in powers of ten; the norms of residual streams have at most 5
PUBLISHED_NEURON = 13_794  # the one that the FAST paper steers, in its SAE of Qwen2.5-7B-Instruct


def _bundled() -> tuple[str, ...]:
    return tuple(bundled_questions())


@validated(SettingsError)
class SweepSettings:
    """The settings of one sweep, for any neuron.

    Raises:
        SettingsError: there is no question, too many alphas, or an alpha that is not finite.
    """

    alphas: Several[float] | None = None  # in units of the decoder row; None: up to twice the mean residual norm
    questions: Several[str] = field(default_factory=_bundled)
    max_new_tokens: Count = 64

    def __post_init__(self) -> None:
        if not self.questions:
            raise SettingsError("a sweep needs at least one question")
        if self.alphas is None:
            return
        if 0.0 not in self.alphas:
            raise SettingsError("0 is among the alphas: every answer is compared with the unsteered one")
        if len(self.alphas) > MAX_ALPHAS:
            raise SettingsError(f"a sweep takes at most {MAX_ALPHAS} alphas, not {len(self.alphas):,}; widen the step")


def parse_alphas(text: str) -> tuple[float, ...] | None:
    """Parses typed alphas; returns them sorted, with 0 (the unsteered answer) added, or None for `auto`.

    Args:
        text: `0:150:25` (start, end and step; the end is included where a step meets it), `25,50,75`, or `auto`.

    Raises:
        SettingsError: the text has another form, or gives too many alphas.
    """
    if text.strip().lower() == AUTO:
        return None
    values = _range(text) if ":" in text else [_number(part) for part in text.split(",")]
    return SweepSettings(alphas=tuple(sorted({0.0, *map(float, values)}))).alphas


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise SettingsError(
            f"alphas are a range as in 0:150:25, a list as in 25,50,75, or {AUTO}; '{text.strip()}' is no number"
        ) from None
    if abs(number.adjusted()) > _MAX_EXPONENT if number.is_finite() and number else not number.is_finite():
        raise SettingsError(f"an alpha is finite and of at most {_MAX_EXPONENT} digits, not {text.strip()[:80]}")
    return number


def _range(text: str) -> list[Decimal]:
    parts = [_number(part) for part in text.split(":")]
    if len(parts) != 3:
        raise SettingsError(f"a range of alphas is a start, an end and a step as in 0:150:25, not '{text}'")
    start, end, step = parts
    if step <= 0 or end < start:
        raise SettingsError(f"a range of alphas ends above its start and has a step above 0, not '{text}'")
    if (end - start) / MAX_ALPHAS >= step:  # checked before the list is built
        raise SettingsError(f"a sweep takes at most {MAX_ALPHAS} alphas, and '{text}' has more; widen the step")
    return [start + i * step for i in range(int((end - start) / step) + 1)]


def read_questions(file: Path | None) -> tuple[str, ...]:
    """The questions of a file of prompts, or the ten bundled ones.

    Raises:
        MissingFileError, PromptFileError: see `read_few_prompts`.
    """
    if file is None:
        return _bundled()
    return read_few_prompts(file, "list of questions")


# ---- neurons ----


def check_chat(has_template: bool, what: str) -> None:
    """Raises ChatSetupError if the setup's model has no chat template."""
    if not has_template:
        raise ChatSetupError(what, [name for name, setup in listed_setups()[0].items() if setup.has_template])


def check_neuron(neuron: int, d_sae: int) -> None:
    """Raises NeuronRangeError if the SAE has no such neuron; the message names local setups that are wide enough."""
    if not 0 <= neuron < d_sae:
        raise NeuronRangeError(neuron, d_sae, wide_enough(neuron))


def wide_enough(neuron: int) -> list[str]:
    """Local setups whose SAE has a neuron of that number. The number means another neuron in each SAE."""
    widths = {name: _width(Path(setup.sae)) for name, setup in listed_setups()[0].items()}
    return [name for name, width in widths.items() if 0 <= neuron < width]


def _width(sae: Path) -> int:
    try:
        return int(json.loads((sae / "cfg.json").read_text(encoding="utf-8"))["d_sae"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # not on this machine, or unreadable


def random_neuron(store: Store, seed: int = 0, exclude: Sequence[int] = ()) -> int:
    """A control neuron, drawn at random from those that fire on some reference prompt.

    Raises:
        SettingsError: no other neuron fires on the reference prompts.
    """
    alive = np.flatnonzero(store.reference_max() > 0)
    # the permutation does not depend on `exclude`, so excluding a neuron does not change the other draws
    order = (int(neuron) for neuron in np.random.default_rng(seed).permutation(alive))
    drawn = next((neuron for neuron in order if neuron not in exclude), None)
    if drawn is None:
        raise SettingsError("no other neuron fires on the reference prompts: there is none to draw at random")
    return drawn


def strongest_on(table: pd.DataFrame | None, token: str, setup: str) -> int:
    """The neuron that is most active on a token of the chat template.

    Args:
        table: the saved result of the experiment `special`, if it was run.

    Raises:
        UsageError: the experiment was not run, or the template has no such token.
    """
    if table is None:
        raise UsageError(f"the template's neurons are not known yet: python -m core evaluate {setup} --what special")
    mine = table[(table["token"] == token) & (table["rank"] == 1)]
    if mine.empty:
        raise UsageError(
            f"no template token '{token}' with an active neuron; there are {', '.join(table['token'].unique())}"
        )
    return int(mine["neuron"].iloc[0])


# ---- tables ----


def rows_table(neuron: int) -> str:
    """Name of the table with every answer in a neuron's sweep."""
    return f"sweep-{neuron}-rows"


def means_table(neuron: int) -> str:
    """Name of the table with one row per alpha."""
    return f"sweep-{neuron}"


def swept_neurons(tables: Sequence[str]) -> list[int]:
    """The neurons whose sweeps are among the named tables."""
    numbers = (name.removeprefix("sweep-").removesuffix("-rows") for name in tables if name.endswith("-rows"))
    return sorted(int(number) for number in numbers if number.isdecimal())


def run_key(fingerprint: str, neuron: int, alphas: Sequence[float], settings: SweepSettings) -> str:
    """Identifies a sweep. Rows with the same key belong to one sweep, so a killed sweep can continue.

    Args:
        fingerprint: of the setup's store: model, SAE and setup.
        alphas: the settings' alphas, or those chosen for `auto`.
    """
    content = json.dumps([fingerprint, neuron, [*alphas], settings.questions, settings.max_new_tokens])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
