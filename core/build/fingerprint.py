"""One digest of everything that determines the numbers in a store."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from core.catalog import Setup, gguf_of
from core.models.gguf import file_sha256
from core.store.schema import SCHEMA_VERSION
from core.text.prompts import Prompt

CHUNK_PROMPTS = 512  # prompts that a build finishes, and keeps, together
_SAMPLE_BYTES = 2**20  # read at both ends of each weight file
# the files that loading a model, an SAE or an embedding model reads; not the cards and evaluations beside them
_WEIGHT_FILES = ("*.safetensors", "cfg.json", "*config.json", "*token*", "vocab.*", "merges.txt", "chat_template*")
# they do not affect the numbers
_NOT_IN_FINGERPRINT = ("name", "title", "origin", "device", "n_parameters", "instruct")


def _folder_digest(folder: Path) -> str:
    """Digest of a folder of weights: names, sizes and samples of the contents, but not the folder's path."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _WEIGHT_FILES for path in folder.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def reference_digest(prompts: Sequence[Prompt]) -> str:
    """Digest of the reference prompts and their labels."""
    content = json.dumps([[prompt.text, prompt.task, prompt.group] for prompt in prompts])
    return hashlib.sha256(content.encode()).hexdigest()


def fingerprint(setup: Setup, prompts: Sequence[Prompt], chunk_prompts: int = CHUNK_PROMPTS) -> str:
    """Digest of all that determines a store's numbers; weights count by content, not by path."""
    fields = {name: value for name, value in asdict(setup).items() if name not in _NOT_IN_FINGERPRINT}
    for name in ("model", "sae", "embedding_model"):
        if Path(fields[name]).is_dir():
            fields[name] = _folder_digest(Path(fields[name]))
    if (file := gguf_of(setup.model)) is not None:
        fields["model"] = file_sha256(file)
    fields["reference"] = reference_digest(prompts)
    content = json.dumps([SCHEMA_VERSION, chunk_prompts, fields], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
