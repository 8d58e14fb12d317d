"""Texts as token ids in flat arrays, with the kind of each token; saved as three .npy files and memory-mapped.

Texts are encoded once per tokenizer and set of sources; the jobs of a grid share the result.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from core.errors import EmptyDatasetError
from core.models.tokens import Tokens

# kinds of token: text; a template's plain text (line breaks, a default system message); role word; special token
CONTENT, TEMPLATE, ROLE, MARKER = 0, 1, 2, 3

_PARTS = ("ids", "kinds", "starts")
_REFUSED, _DUPLICATES = "refused.json", "duplicates.json"  # of conversations only


@dataclass(frozen=True)
class TrainingTokens(Tokens):
    """A batch of tokens for one forward pass.

    `special` covers all that is not content: the template's plain text, role words, markers and padding.
    """

    role: Bool[Tensor, "prompt pos"]  # role words of the template
    marker: Bool[Tensor, "prompt pos"]  # special tokens that the template, or the end of a document, puts there

    @classmethod
    def of(
        cls,
        ids: Int[np.ndarray, "prompt pos"],
        kinds: UInt8[np.ndarray, "prompt pos"],
        attention: Bool[Tensor, "prompt pos"],
    ) -> "TrainingTokens":
        """Builds a batch from token ids and kinds; padding counts as special."""
        of_kind = torch.from_numpy(np.array(kinds))
        return cls(
            torch.from_numpy(ids.astype(np.int64)),
            attention,
            (of_kind != CONTENT) | ~attention,
            (of_kind == ROLE) & attention,
            (of_kind == MARKER) & attention,
        )


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids and kinds of documents or conversations, one after another."""

    ids: Int[np.ndarray, "token"]
    kinds: UInt8[np.ndarray, "token"]
    starts: Int[np.ndarray, "text+1"]  # first token of each text; the last entry is the number of tokens
    refused: tuple[int, str] = (0, "")  # conversations that the chat template refused, and the first one's reason
    # conversations that deduplication dropped, and those that it read, for training and held-out text together
    duplicates: tuple[int, int] = (0, 0)

    @property
    def left_out(self) -> str:
        """What was left out of conversations, in words that follow a description of the rest; empty if nothing."""
        (n, reason), (dropped, read) = self.refused, self.duplicates
        refused = f", {n:,} left out that the chat template refuses ({reason})" if n else ""
        return refused + (f"; deduplication dropped {dropped:,} of {read:,} conversations" if read else "")

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def n_tokens(self) -> int:
        return int(self.starts[-1])

    def gather(self, order: Int[np.ndarray, "chosen"]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and kinds of the chosen texts, concatenated in that order."""
        spans = [slice(self.starts[i], self.starts[i + 1]) for i in order]
        return np.concatenate([self.ids[s] for s in spans]), np.concatenate([self.kinds[s] for s in spans])

    @classmethod
    def join(
        cls, texts: Iterator[tuple[np.ndarray, np.ndarray]], what: str, refused: Sequence[str] = ()
    ) -> "EncodedTexts":
        """Concatenates the (ids, kinds) of each text.

        Args:
            what: what is missing, for the error message.
            refused: why the chat template refused conversations; filled while the texts are read.

        Raises:
            EmptyDatasetError: no text has a content token.
        """
        pairs = [(ids, kinds) for ids, kinds in texts if len(ids)]
        if not any((kinds == CONTENT).any() for _, kinds in pairs):
            raise EmptyDatasetError(f"{what} ({refused[0]})" if refused else what)
        starts = np.cumsum([0] + [len(ids) for ids, _ in pairs], dtype=np.int64)
        told = (len(refused), refused[0]) if refused else (0, "")
        return cls(np.concatenate([i for i, _ in pairs]), np.concatenate([k for _, k in pairs]), starts, told)

    def save(self, folder: Path) -> None:
        """Writes the folder completely or not at all; an existing one is kept, as its name identifies its contents."""
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for part in _PARTS:
            np.save(partial / f"{part}.npy", getattr(self, part))
        if self.refused[0]:
            (partial / _REFUSED).write_text(json.dumps(self.refused), encoding="utf-8")
        if self.duplicates[1]:
            (partial / _DUPLICATES).write_text(json.dumps(self.duplicates), encoding="utf-8")
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.exists():
                raise
            shutil.rmtree(partial)

    @classmethod
    def load(cls, folder: Path) -> "EncodedTexts":
        """Memory-maps a saved folder."""
        arrays = (np.load(folder / f"{part}.npy", mmap_mode="r", allow_pickle=False) for part in _PARTS)
        told = json.loads((folder / _REFUSED).read_text(encoding="utf-8")) if (folder / _REFUSED).exists() else (0, "")
        counts = folder / _DUPLICATES
        duplicates = json.loads(counts.read_text(encoding="utf-8")) if counts.exists() else (0, 0)
        ids, kinds, starts = arrays
        return cls(ids, kinds, starts, tuple(told), tuple(duplicates))
