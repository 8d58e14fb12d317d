"""Settings that check themselves: the words come from the fields, and the class stays an ordinary dataclass."""

import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, Strict

from core.errors import SettingsError, TrainingConfigError
from core.validated import Count, Name, Positive, Several, Share, Text, from_table, read_toml, shown, validated


@validated(SettingsError)
class Part:
    path: Text
    share: Share = 1.0


@validated(SettingsError)
class Whole:
    count: Count = 1
    ratio: Positive = 1.0
    plain: float = 0.0
    below: Annotated[float, Field(ge=0, lt=1)] = 0.5
    small: Annotated[int, Field(ge=2, le=9)] = 3
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    either: bool | Literal["auto"] = "auto"
    maybe: Count | None = None
    name: Name = "x"
    word: str = ""
    parts: Several[Part] = ()
    pairs: Several[Annotated[tuple[int, float], Strict(False)]] = ()
    table: dict[str, int] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.small > self.count + 8:
            raise SettingsError(f"small ({self.small}) is at most count + 8")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count is a whole number from 1 up, not 0"),
        ({"count": True}, "count is a whole number from 1 up, not True"),
        ({"count": 1e6}, "count is a whole number from 1 up, not 1000000.0"),
        ({"count": 10**16}, "count is a whole number from 1 to 1000000000000000, not 10000000000000000"),
        ({"count": 0x10 << 20_000}, "count is a whole number .*, not a number of more than 1,000 digits"),
        ({"ratio": -1}, "ratio is a finite number above 0, not -1"),
        ({"ratio": "1"}, "ratio is a finite number above 0, not '1'"),
        ({"ratio": True}, "ratio is a finite number above 0, not True"),
        ({"ratio": 10**400}, "ratio is a finite number above 0, not 1000.*0"),
        ({"plain": float("nan")}, "plain is a finite number, not nan"),
        ({"plain": float("-inf")}, "plain is a finite number, not -inf"),
        ({"below": 1}, "below is a number from 0 to below 1, not 1"),
        ({"small": 10}, "small is a whole number from 2 to 9, not 10"),
        ({"flag": 1}, "flag is true or false, not 1"),
        ({"kind": "c"}, "kind is one of a, b, not 'c'"),
        ({"either": "c"}, "either is true, false or 'auto', not 'c'"),
        ({"maybe": 0}, "maybe is a whole number from 1 up, not 0"),
        ({"name": "../x"}, "name is at most 200 letters, digits, '_', '-' and '.', the first .*, not '../x'"),
        ({"name": "x\n"}, r"name is at most .*, not 'x\\n'"),
        ({"name": "x" * 201}, "name is at most 200 letters.*xxx'"),
        ({"word": 3}, "word is text, not 3"),
        ({"parts": 3}, "parts is a list, each entry a table, not 3"),
        ({"pairs": [(1, 2.0), (1,)]}, "pairs, entry 2, entry 2, is a finite number, not .*"),
        ({"pairs": [(1, float("nan"))]}, "pairs, entry 1, entry 2, is a finite number, not nan"),
        ({"pairs": ["ab"]}, "pairs, entry 1, is a list of 2: a whole number, a finite number, not 'ab'"),
        ({"table": []}, r"table is a table, not \[\]"),
        ({"cuont": 1}, r"unknown key 'cuont'; did you mean 'count'\?"),
        ({"q": 1}, "unknown key 'q'; it knows below, count, either, .*, word"),
        ({"small": 9, "count": 1, "flag": "no"}, "flag is true or false, not 'no'"),
    ],
)
def test_value_that_does_not_fit_is_told_in_a_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}$") as caught:
        Whole(**values)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 300


def test_missing_key_gives_way_to_the_one_it_was_mistyped_as() -> None:
    with pytest.raises(SettingsError, match=r"^the key 'path' is missing$"):
        Part()  # type: ignore[call-arg]
    with pytest.raises(SettingsError, match=r"^unknown key 'paht'; did you mean 'path'"):
        Part(paht="a")  # type: ignore[call-arg]


def test_whole_number_serves_as_a_float_and_a_list_as_a_tuple() -> None:
    made = Whole(ratio=2, pairs=[[1, 2]], parts=[Part(path="a")])  # type: ignore[arg-type]
    assert (made.ratio, made.pairs, made.parts) == (2.0, ((1, 2.0),), (Part(path="a"),))
    assert isinstance(made.ratio, float)


def test_class_is_a_dataclass_like_any_other() -> None:
    part = Part(path="a", share=0.5)
    assert [field.name for field in fields(Part)] == ["path", "share"]
    assert asdict(part) == {"path": "a", "share": 0.5}
    assert hash(part) == hash(Part(path="a", share=0.5))
    assert pickle.loads(pickle.dumps(part)) == part
    assert replace(part, share=1) == Part(path="a")
    with pytest.raises(SettingsError, match="share is a number above 0 and at most 1, not 2"):
        replace(part, share=2)
    with pytest.raises(FrozenInstanceError):
        part.share = 1.0  # type: ignore[misc]


# ---- tables ----


def test_table_becomes_an_instance_with_those_in_it() -> None:
    table = {"count": 3, "parts": [{"path": "a"}, {"path": "b", "share": 1}]}
    assert from_table(Whole, table, "[t]") == Whole(count=3, parts=(Part(path="a"), Part(path="b")))
    assert from_table(Part, {"share": 1}, "[t]", given={"path": "p"}) == Part(path="p")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([{"count": 1}], r"\[t\] is a table, not \[\{'count': 1\}\]"),
        ({"count": 0}, r"\[t\]: count is a whole number from 1 up, not 0"),
        ({"parts": [{"path": "a"}, {"path": "b", "share": 0}]}, r"\[t\], entry 2 of parts: share is .*, not 0"),
        ({"parts": [{"share": 1}]}, r"\[t\], entry 1 of parts: the key 'path' is missing"),
        ({"parts": ["a"]}, r"\[t\], entry 1 of parts is a table, not 'a'"),
        ({"parts": {"path": "a"}}, r"\[t\]: parts is a list, each entry a table, not \{'path': 'a'\}"),
        ({"self": 1}, r"\[t\]: unknown key 'self'; it knows .*"),
        ({"small": 9, "count": 1}, None),
    ],
)
def test_wrong_table_is_named(table: object, message: str | None) -> None:
    if message is None:
        assert from_table(Whole, table, "[t]").small == 9
        return
    with pytest.raises(SettingsError, match=f"^{message}$"):
        from_table(Whole, table, "[t]")
    with pytest.raises(TrainingConfigError, match=r"^\[t\]"):
        from_table(Whole, table, "[t]", TrainingConfigError)


def test_given_values_are_no_keys() -> None:
    with pytest.raises(SettingsError, match=r"^\[t\]: unknown key 'path'; it knows share$"):
        from_table(Part, {"path": "a"}, "[t]", given={"path": "p"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a = ", "is no TOML file: "),
        (b"a = '\xff'", "is no TOML file: "),
        (b"a = " + b"9" * 5_000, "is no TOML file: .*digits"),
        (b"a = " + b"[" * 3_000 + b"]" * 3_000, "(cannot be read: its tables or lists are nested too deep|is no TOML)"),
    ],
)
def test_file_that_is_no_toml_is_told_in_a_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        read_toml(path, SettingsError)
    assert str(caught.value).startswith(f"'{path}'")
    assert "\n" not in str(caught.value)


def test_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        read_toml(tmp_path, SettingsError)


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\nb = 2\r\n")
    assert read_toml(path, SettingsError) == {"a": 1, "b": 2}


@pytest.mark.parametrize("value", ["x" * 10_000, ["x" * 100] * 100, {"a": {"b": [1] * 500}}, [2**40_000], "a\nb"])
def test_shown_value_is_short_and_on_one_line(value: object) -> None:
    assert len(shown(value)) <= 80
    assert "\n" not in shown(value)
