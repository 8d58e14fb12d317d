"""Small corpora and a config that trains in a second on the tiny models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.catalog import Setup
from core.models.language_model import LanguageModel
from core.models.loading import load_language_model
from core.training.autoencoder_config import AutoencoderConfig
from core.training.corpus import TextSource
from tests.fixtures.text import sample_rows

N_TEXTS = 1_200

Configure = Callable[..., AutoencoderConfig]


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text folder: `texts.jsonl` and `chats.jsonl`, 1,200 short documents and two-turn conversations."""
    folder = tmp_path_factory.mktemp("text")
    rows = sample_rows(N_TEXTS)
    texts = [{"text": row["text"]} for row in rows]
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"{i}: {row['group']}"},
                {"role": "assistant", "content": row["text"]},
            ]
        }
        for i, row in enumerate(rows)
    ]
    for name, documents in (("texts", texts), ("chats", chats)):
        lines = "".join(json.dumps(document) + "\n" for document in documents)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def chat_model(qwen2_folder: Path) -> LanguageModel:
    """The tiny Qwen2 with its chat template; d_in 32, context 256."""
    return load_language_model(Setup(name="qwen2", model=str(qwen2_folder), sae="none", device="cpu", chat=True))


@pytest.fixture
def configure(qwen2_folder: Path) -> Configure:
    """Makes a config of 12 steps of 128 activations on the tiny Qwen2; keywords override."""

    def make(**settings: Any) -> AutoencoderConfig:
        method = settings.get("method", "btp")
        source = TextSource(path="texts.jsonl" if method == "btp" else "chats.jsonl", licence="CC0")
        defaults: dict[str, Any] = {
            "name": "tiny",
            "model": str(qwen2_folder),
            "hook_name": "blocks.1.hook_resid_post",
            "sources": (source,),
            "context_size": 32,
            "expansion": 4,
            "k": 4,
            "sparsity": 0.1,
            "tokens": 12 * 128,
            "batch_size": 128,
            "buffer_size": 512,
            "forward_tokens": 256,
            "warmup_steps": 2,
            "dead_window": 512,
            "median_tokens": 256,
            "autocast": False,
            "device": "cpu",
            "checkpoint_steps": 3,
            "evaluation_tokens": 300,
        }
        return AutoencoderConfig(**defaults | settings)

    return make


@pytest.fixture
def work_folder(tmp_path: Path) -> Path:
    """An empty work folder."""
    folder = tmp_path / "work"
    shutil.rmtree(folder, ignore_errors=True)
    return folder
