"""Input texts: reference prompts, topics and dialogues, bundled in `data/` or read from the user's files."""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from core.catalog import DATA, EMBEDDED_REFERENCE
from core.errors import EmptyTopicError, PromptFileError, TopicTooLongError, UnknownTopicError
from core.files import require_file

MAX_TOPIC_CHARACTERS = 20_000  # of a typed topic
MAX_TOPIC_PROMPTS = 2_000  # of a topic's file: embedded within seconds
MAX_TOPIC_BYTES = 4 * 2**20  # of the file
PROMPT_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
_MAX_FILE_BYTES = 2**30
_TEXT_COLUMNS = ("text", "prompt")


@dataclass(frozen=True)
class Prompt:
    """One reference prompt; `task` and `group` are labels for display and counts."""

    text: str
    task: str = ""
    group: str = ""


@dataclass(frozen=True)
class Topic:
    """A topic to align to: one or more prompts (P_align; Topic Alignment paper, section 3.1)."""

    name: str
    title: str
    prompts: tuple[str, ...]


def _lines_of(path: Path) -> list[str]:
    # not splitlines: a line separator or form feed may stand inside a prompt or a JSON string
    return path.read_text(encoding="utf-8-sig").split("\n")


def _text_rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in _lines_of(path):
        yield {"text": line}


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines_of(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as exc:  # also a number of too many digits, or nesting too deep
            raise PromptFileError(path, f"line {number} is not JSON ({exc})") from exc
        if not isinstance(row, dict):
            raise PromptFileError(path, f"line {number} is not a JSON object")
        yield row


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    import pandas as pd

    try:
        yield from pd.read_parquet(path).to_dict("records")
    except (OSError, ValueError) as exc:
        raise PromptFileError(path, f"not a Parquet file ({exc})") from exc


_READERS = {".txt": _text_rows, ".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}


def _prompt(row: dict[str, Any], path: Path) -> Prompt | None:
    column = next((c for c in _TEXT_COLUMNS if c in row), None)
    if column is None:
        raise PromptFileError(path, f"no column {' or '.join(_TEXT_COLUMNS)}; it has {sorted(map(str, row))}")
    text = _encodable(row[column]).strip() if isinstance(row[column], str) else ""
    return Prompt(text, _label(row.get("task")), _label(row.get("group"))) if text else None


def _encodable(text: str) -> str:
    # surrogates and NUL cannot be encoded or stored; they appear when binary data is read as text
    return text.encode("utf-8", "ignore").decode().replace("\x00", "")


def _label(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))  # Parquet reads a missing value as NaN
    return "" if missing else _encodable(str(value))


def read_prompts(path: Path) -> list[Prompt]:
    """Reads prompts from .txt (one per line), .csv, .jsonl or .parquet (column `text` or `prompt`); skips empty rows.

    Raises:
        MissingFileError: no such file.
        PromptFileError: unknown suffix, not UTF-8, no such column, a malformed line, or no prompts.
    """
    require_file(path, "name a file of prompts")
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise PromptFileError(path, f"prompts are read from {', '.join(PROMPT_SUFFIXES)} files, not '{path.suffix}'")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise PromptFileError(path, "larger than 1 GiB; split it, or take a sample of it")
    try:
        prompts = [prompt for row in _READERS[suffix](path) if (prompt := _prompt(row, path))]
    except UnicodeDecodeError as exc:
        raise PromptFileError(path, f"not UTF-8 (byte {exc.start}); save it as UTF-8") from exc
    except csv.Error as exc:
        raise PromptFileError(path, f"not a CSV file ({exc})") from exc
    if not prompts:
        raise PromptFileError(path, "contains no prompts")
    return prompts


def reference_prompts(reference: str, limit: int | None = None) -> list[Prompt]:
    """P_ref of a setup: the bundled set (`embedded`) or a file; with `limit`, that many evenly spaced prompts of it.

    Raises:
        MissingFileError, PromptFileError: see `read_prompts`.
    """
    path = DATA / "reference_prompts.jsonl" if reference == EMBEDDED_REFERENCE else Path(reference)
    prompts = read_prompts(path)
    if limit is None or limit >= len(prompts):
        return prompts
    # evenly spread, so that every task keeps its share
    return [prompts[i * len(prompts) // limit] for i in range(limit)]


def parse_topic(text: str, name: str = "typed") -> Topic:
    """A typed topic: one prompt per line; empty lines are skipped.

    Raises:
        EmptyTopicError: the text is only white space.
        TopicTooLongError: more than `MAX_TOPIC_CHARACTERS` characters.
    """
    if len(text) > MAX_TOPIC_CHARACTERS:
        raise TopicTooLongError(len(text), MAX_TOPIC_CHARACTERS)
    lines = tuple(line.strip() for line in _encodable(text).splitlines() if line.strip())
    if not lines:
        raise EmptyTopicError
    return Topic(name, lines[0] if len(lines) == 1 else f"{lines[0]} (+{len(lines) - 1})", lines)


def read_few_prompts(path: Path, what: str) -> tuple[str, ...]:
    """The prompts of a file of topics or questions, whose size is limited (see `read_prompts`).

    Raises:
        PromptFileError: the file is too large, or has too many prompts; `what` it is for is in the message.
    """
    if (size := require_file(path, "name a file of prompts").stat().st_size) > MAX_TOPIC_BYTES:
        problem = f"it has {size / 2**20:.0f} MiB; the file of a {what} has at most {MAX_TOPIC_BYTES // 2**20}"
        raise PromptFileError(path, f"{problem}: take a sample of it")
    prompts = tuple(prompt.text for prompt in read_prompts(path))
    if len(prompts) > MAX_TOPIC_PROMPTS:
        raise PromptFileError(
            path, f"it has {len(prompts):,} prompts; a {what} takes at most {MAX_TOPIC_PROMPTS:,}: take a sample of it"
        )
    return prompts


def read_topic(path: Path) -> Topic:
    """A topic from a file of prompts (see `read_few_prompts`)."""
    return Topic(path.stem, path.stem, read_few_prompts(path, "topic"))


@cache
def bundled_topics() -> dict[str, Topic]:
    """The 15 topics of `data/topics.jsonl` by name, 20 prompts each."""
    rows = _json_rows(DATA / "topics.jsonl")
    return {row["topic"]: Topic(row["topic"], row["title"], tuple(row["prompts"])) for row in rows}


def bundled_topic(name: str, next_step: str) -> Topic:
    """The bundled topic of that name.

    Raises:
        UnknownTopicError: there is none; the message lists the nearest, and the `next_step`.
    """
    topics = bundled_topics()
    if name not in topics:
        near = get_close_matches(name.lower(), topics, n=3, cutoff=0.0)
        raise UnknownTopicError(name, near, next_step)
    return topics[name]


def find_topic(text: str) -> Topic:
    """The bundled topic of that name, else the text as a typed topic."""
    return bundled_topics().get(text.strip()) or parse_topic(text)


def _lines(name: str) -> list[str]:
    return [prompt.text for prompt in read_prompts(DATA / name)]


def unaligned_prompts() -> list[str]:
    """40 prompts about none of the bundled topics."""
    return _lines("unaligned.txt")


def continuations() -> list[str]:
    """24 sentence openings that fit any topic."""
    return _lines("continuations.txt")


def questions() -> list[str]:
    """The ten questions of the alpha sweep."""
    return _lines("questions.txt")


def dialogues() -> list[dict[str, Any]]:
    """Bundled chat dialogues: `id`, `category`, `messages` (each with `role` and `content`)."""
    return list(_json_rows(DATA / "dialogues.jsonl"))
