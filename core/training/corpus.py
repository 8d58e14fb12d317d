"""Training text: reads the sources of a config as documents, splits them, and encodes them to token ids.

A source is a file below the text folder: `.jsonl`, `.jsonl.gz` (one object per line, with `text` or `messages`) or
`.txt`, `.txt.zst` (one document per line).
"""

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from tokenizers import Tokenizer

from core.errors import ConversationError, PromptFileError, TrainingConfigError, in_one_line
from core.files import require_file
from core.validated import Count, Share, Text, validated

HELD_OUT_SHARE = 0.01
_ENCODE_BATCH = 2_000  # documents per tokenizer call


@validated(TrainingConfigError)
class TextSource:
    """One file of a training corpus."""

    path: Text  # relative to the text folder; SAE training knows "./..." and "hub:owner/name", too
    licence: str
    share: Share = 1.0  # share of its documents used in each pass
    limit: Count | None = None  # maximum number of documents to read
    whole: bool = False  # no SAE trains on it: every document is held out, to evaluate on


@dataclass(frozen=True)
class Document:
    """One text, or one conversation (then `text` joins its messages with line breaks)."""

    text: str
    messages: tuple[dict[str, str], ...] = ()


def _open_text(path: Path) -> io.TextIOBase:
    require_file(path, "set STEERSCOPE_TEXT (or --text) to the folder that holds the corpus")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".zst":
        return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(path.open("rb")), encoding="utf-8")
    return path.open(encoding="utf-8")


def _parse(line: str, path: Path, number: int) -> Document:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as exc:  # no JSON, a number of too many digits, or nesting too deep
        raise PromptFileError(path, f"line {number} is not JSON: {exc}") from exc
    messages, text = (row.get("messages"), row.get("text")) if isinstance(row, dict) else (None, None)
    if isinstance(messages, list):
        if not messages:
            raise ConversationError(f"line {number} of '{path}' has no messages; leave it out, or give it a message")
        check_messages(messages, f"line {number} of '{path}'")
        return Document("\n".join(m["content"] for m in messages), tuple(messages))
    if not isinstance(text, str):
        raise PromptFileError(path, f"line {number} has neither 'text' nor 'messages'")
    return Document(text)


def check_messages(messages: Sequence[Any], where: str) -> None:
    """Raises ConversationError if a message has no role or content; `where` names the conversation."""
    for place, message in enumerate(messages, start=1):
        for key in ("role", "content"):
            value = message.get(key) if isinstance(message, dict) else None
            if not isinstance(value, str) or (key == "role" and not value.strip()):
                raise ConversationError(f"message {place} of {where} has no {key!r}; each needs 'role' and 'content'")


def read_documents(path: Path) -> Iterator[Document]:
    """Documents of one source, in file order, without empty lines.

    Raises:
        MissingFileError, PromptFileError, ConversationError: the file is missing or cannot be read to its end.
    """
    json_lines = ".jsonl" in path.suffixes
    with _open_text(path) as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, path, number) if json_lines else Document(line.strip())
        except (OSError, EOFError, UnicodeDecodeError, zlib.error, zstandard.ZstdError) as exc:
            raise PromptFileError(path, f"cannot be read ({in_one_line(exc)}); save it as UTF-8 text, whole") from exc


def is_held_out(document: Document) -> bool:
    """Whether a document is held out from training. 1% are, chosen by a hash of the longest paragraph.

    If a passage is in two sources (an answer alone and in a dialogue), both copies fall on the same side.
    """
    longest = max(document.text.split("\n\n"), key=len)
    words = " ".join(longest.lower().split())
    digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < HELD_OUT_SHARE


def encode_documents(texts: Iterator[str], tokenizer: Tokenizer, end_of_text: int) -> list[np.ndarray]:
    """Token ids of each text, each followed by `end_of_text`; uint16 if the vocabulary is small enough, else uint32."""
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    encoded: list[np.ndarray] = []
    batch: list[str] = []

    def flush() -> None:
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            encoded.append(np.array([*encoding.ids, end_of_text], dtype=dtype))
        batch.clear()

    for text in texts:
        batch.append(text)
        if len(batch) == _ENCODE_BATCH:
            flush()
    flush()
    return encoded
