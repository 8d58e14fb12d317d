"""Settings that check themselves: type, range, default and choices of each stand in one place, its dataclass field.

`validated` makes a frozen, keyword-only pydantic dataclass. A value that does not fit is told in one line, in the error
class that is given: `lr is a number above 0 and at most 1, not -1.0`. The words come from the field's own annotation.
Rules that concern several fields stand in the class's `__post_init__`, which finds every single field right already.
"""

import difflib
import reprlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from functools import wraps
from itertools import repeat
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

import pydantic.dataclasses
from pydantic import ConfigDict, Field, Strict, ValidationError
from pydantic.fields import FieldInfo

from core.errors import SteerscopeError

T = TypeVar("T")

NO_BOUND = 10**15  # above every meaningful count, and far below what arithmetic on floats would overflow at

# ---- the types of fields ----

Whole = Annotated[int, Field(ge=0, le=NO_BOUND)]
Count = Annotated[int, Field(ge=1, le=NO_BOUND)]
Context = Annotated[int, Field(ge=2, le=NO_BOUND)]  # tokens; one alone predicts nothing
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # what torch and numpy both take
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
LearningRate = Positive  # a training whose loss is no number any more stops by itself
Line = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$", description="text on one line")]
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", description="some text, on one line")]
# becomes the name of a file or folder, and may not lead out of the one it belongs in
Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}$",
        description="at most 200 letters, digits, '_', '-' and '.', the first a letter or digit",
    ),
]
Dtype = Literal["float32", "bfloat16", "float16"]
Several = Annotated[tuple[T, ...], Strict(False)]  # TOML's lists are taken, too

_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

# ---- making a class ----


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def validated(error: type[SteerscopeError]) -> Callable[[type[T]], type[T]]:
    """A decorator: the class becomes a frozen, keyword-only dataclass that raises `error` for a value that is wrong.

    Types are taken strictly, as a setting's typing error is better told than guessed at: '1' is no number, true no
    whole number and 1e6 none either. A whole number serves where a float is asked for.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_CONFIG)(cls)
        unchecked = made.__init__

        @wraps(unchecked)
        def init(self: Any, /, **values: Any) -> None:
            try:
                unchecked(self, **values)
            except ValidationError as exc:
                raise error(_line(exc, made)) from None

        made.__init__ = init
        made.__error__ = error
        return made  # type: ignore[no-any-return]

    return decorate


def from_table(
    cls: type[T],
    table: object,
    where: str,
    error: type[SteerscopeError] | None = None,
    given: Mapping[str, object] = MappingProxyType({}),
) -> T:
    """An instance of a validated class from a table of a TOML file; tables within it become instances of their own.

    Args:
        where: begins every message: "[autoencoder] of 'x.toml'".
        error: what to raise instead of the class's own error.
        given: values of fields that are no keys of the table.

    Raises:
        SteerscopeError: no table, an unknown or a missing key, or a value out of range.
    """
    own: type[SteerscopeError] = cls.__error__  # type: ignore[attr-defined]
    error = error or own
    if not isinstance(table, Mapping):
        raise error(f"{where} is a table, not {shown(table)}")
    known = sorted(f.name for f in fields(cls) if f.name not in given)  # type: ignore[arg-type]
    if unknown := sorted(set(table) - set(known)):
        raise error(f"{where}: {_unknown(unknown[0], known)}")
    values = {**table, **given}
    for key, kind in get_type_hints(cls).items():
        entry_type: Any = next(iter(get_args(kind)), None)  # of a list, without what its annotation adds
        if hasattr(entry_type, "__error__") and isinstance(entries := values.get(key), list):
            places = [f"{where}, entry {number} of {key}" for number in range(1, len(entries) + 1)]
            values[key] = tuple(map(from_table, repeat(entry_type), entries, places, repeat(error)))
    try:
        return cls(**values)
    except own as exc:
        raise error(f"{where}: {exc}") from None


def read_toml(path: Path, error: type[SteerscopeError]) -> dict[str, Any]:
    """A TOML file as a dictionary; a byte order mark, as Windows editors write it, is passed over.

    Raises:
        SteerscopeError: `error`, where the file cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, RecursionError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "its tables or lists are nested too deep"
        raise error(f"'{path}' cannot be read: {reason}") from None
    except ValueError as exc:  # no TOML, no UTF-8, or a number of more digits than Python reads
        raise error(f"'{path}' is no TOML file: {exc}") from None


# ---- saying what is wrong ----


class _Short(reprlib.Repr):
    """`repr` of at most about 80 characters, whatever the value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if abs(x) < 10**1_000 else "a number of more than 1,000 digits"


def shown(value: object) -> str:
    """A value as messages show it: as Python writes it, on one line, cut to 80 characters."""
    text = " ".join(_Short().repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _line(exc: ValidationError, cls: type) -> str:
    """One line for the gravest of the problems: a key that is unknown may be the one that is missing."""
    problems = exc.errors(include_url=False, include_context=False)
    order = {"unexpected_keyword_argument": 0, "missing": 1}
    problem = min(problems, key=lambda problem: order.get(problem["type"], 2))
    key, *entries = problem["loc"]
    if problem["type"] == "unexpected_keyword_argument":
        return _unknown(str(key), sorted(f.name for f in fields(cls)))
    if problem["type"] == "missing" and not entries:
        return f"the key {str(key)!r} is missing"
    kind = get_type_hints(cls, include_extras=True)[str(key)]
    numbers = [entry for entry in entries if isinstance(entry, int)]  # a union's branch has a name instead
    for number in numbers:
        kind = _entry(kind, number)
    place = "".join(f", entry {number + 1}" for number in numbers) + ("," if numbers else "")
    too_large = problem["type"] in ("less_than", "less_than_equal")
    return f"{key}{place} is {described(kind, too_large=too_large)}, not {shown(problem['input'])}{_hint(kind)}"


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
    return f"unknown key {shown(key)}; " + (f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known)}")


def _bare(kind: Any) -> tuple[Any, FieldInfo]:
    """A type without None and without its annotations, and what these say."""
    info = Field()
    while True:
        if get_origin(kind) is Annotated:
            kind, *notes = get_args(kind)
            info = next((note for note in notes if isinstance(note, FieldInfo)), info)
        elif get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
            kind = Union[tuple(part for part in get_args(kind) if part is not NoneType)]  # noqa: UP007 (made here)
        else:
            return kind, info


def _entry(kind: Any, number: int) -> Any:
    """The type of an entry of a tuple."""
    parts = get_args(_bare(kind)[0])
    return parts[0] if parts[-1] is Ellipsis else parts[number]


def _hint(kind: Any) -> str:
    title = _bare(kind)[1].title
    return f"; {title}" if title else ""


def described(kind: Any, *, too_large: bool = False) -> str:
    """What a type takes, in words: "a whole number from 1 up".

    Args:
        too_large: whether to name a bound, too, that nobody meets who does not look for it.
    """
    kind, info = _bare(kind)
    if info.description:
        return info.description
    if kind is bool or get_origin(kind) is Literal or get_origin(kind) in (Union, UnionType):
        return _choices(kind)
    if kind in (int, float):
        limits = {name: getattr(note, name) for note in info.metadata for name in _LIMITS if hasattr(note, name)}
        if limits.get("le") == NO_BOUND and not too_large:
            del limits["le"]
        return _range(kind, limits)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if parts[-1] is Ellipsis:
            return f"a list, each entry {described(parts[0])}"
        return f"a list of {len(parts)}: {', '.join(described(part) for part in parts)}"
    return "text" if kind is str else "a table"


def _choices(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    words: list[str] = []
    for part in get_args(kind) or (kind,):
        if part is bool:
            words += ["true", "false"]
        else:
            words += map(repr, get_args(part)) if get_origin(part) is Literal else [described(part)]
    return f"{', '.join(words[:-1])} or {words[-1]}"


_LIMITS = ("ge", "gt", "le", "lt")


def _range(kind: type, limits: Mapping[str, float]) -> str:
    words = "a whole number" if kind is int else "a number" if len(limits) == 2 else "a finite number"
    match limits:
        case {"ge": low, "le": high}:
            return f"{words} from {low} to {high}"
        case {"ge": low, "lt": high}:
            return f"{words} from {low} to below {high}"
        case {"gt": low, "le": high}:
            return f"{words} above {low} and at most {high}"
        case {"gt": low, "lt": high}:
            return f"{words} above {low} and below {high}"
        case {"ge": low}:
            return f"{words} from {low} up"
        case {"gt": low}:
            return f"{words} above {low}"
    return words
