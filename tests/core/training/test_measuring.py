"""A finished SAE measured again: the same figures, or those of more held-out text."""

import json
import re
from pathlib import Path

import pytest

from core.errors import MissingFileError, TrainingConfigError
from core.training.measuring import measure_again
from core.training.run import run_training

CONFIG = """
[autoencoder]
name = "small"
model = "{model}"
hook_name = "blocks.1.hook_resid_post"
expansion = 2
k = 4
tokens = 1_536
batch_size = 128
buffer_size = 512
context_size = 32
forward_tokens = 256
warmup_steps = 2
evaluation_tokens = 200
device = "cpu"
autocast = false
[[autoencoder.sources]]
path = "texts.jsonl"
licence = "CC0"
"""


@pytest.fixture
def config(tmp_path: Path, qwen2_folder: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(CONFIG.replace("{model}", str(qwen2_folder)), encoding="utf-8")
    return path


def test_measured_again_it_has_the_same_card_or_that_of_more_text(
    config: Path, small_corpus: Path, tmp_path: Path
) -> None:
    sae = run_training(config, small_corpus, tmp_path / "work", tmp_path / "sae", lambda stage, share: None)
    card, figures = ((sae / name).read_text() for name in ("README.md", "evaluation.json"))
    for name in ("README.md", "evaluation.json"):
        (sae / name).write_text("gone")
    assert measure_again(config, sae, small_corpus, tmp_path / "work" / "saes") == sae
    assert ((sae / "README.md").read_text(), (sae / "evaluation.json").read_text()) == (card, figures)

    config.write_text(config.read_text().replace("evaluation_tokens = 200", "evaluation_tokens = 400"))
    measure_again(config, sae, small_corpus, tmp_path / "work" / "saes")
    more = json.loads((sae / "evaluation.json").read_text())
    assert more["tokens"] >= 400 > json.loads(figures)["tokens"]
    assert f"Measured on {more['tokens']:,} activations" in (sae / "README.md").read_text()


def test_folder_of_another_config_is_refused(config: Path, small_corpus: Path, tmp_path: Path) -> None:
    sae = run_training(config, small_corpus, tmp_path / "work", tmp_path / "sae", lambda stage, share: None)
    config.write_text(config.read_text().replace('name = "small"', 'name = "other"'))
    with pytest.raises(TrainingConfigError, match=re.escape(f"trains no SAE 'small', which is in '{sae}'")):
        measure_again(config, sae, small_corpus, tmp_path / "work")
    with pytest.raises(MissingFileError, match="name the folder of an SAE"):
        measure_again(config, tmp_path, small_corpus, tmp_path / "work")
