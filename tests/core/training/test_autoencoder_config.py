"""Configs of one SAE: read from TOML, wrong keys and values named."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from core.catalog import DATA, EMBEDDED_LANGUAGE_MODEL
from core.errors import MissingFileError, TrainingConfigError
from core.training.autoencoder_config import AutoencoderConfig, load_autoencoder_config
from core.training.corpus import TextSource
from core.training.run import run_training
from tests.core.training.conftest import Configure

VALID = """
[autoencoder]
name = "a"
model = "m"
hook_name = "blocks.2.hook_resid_post"
k = 8
[[autoencoder.sources]]
path = "t.jsonl"
licence = "CC0"
share = 0.5
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_config_is_read(tmp_path: Path) -> None:
    config = load_autoencoder_config(written(tmp_path, VALID))
    assert config == AutoencoderConfig(
        name="a",
        model="m",
        hook_name="blocks.2.hook_resid_post",
        k=8,
        sources=(TextSource(path="t.jsonl", licence="CC0", share=0.5),),
    )


def test_embedded_sae_is_the_one_of_its_config() -> None:
    config = load_autoencoder_config(DATA / "configs" / "smollm2_sae.toml")
    assert config.model == EMBEDDED_LANGUAGE_MODEL
    folder = DATA / "saes" / config.name
    shipped = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
    assert (shipped["architecture"], shipped["k"], shipped["d_sae"]) == ("topk", config.k, config.d_sae)
    trained = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    for key in ("model", "hook_name", "method", "architecture", "first_token", "skip_first", "keep_special"):
        assert trained[key] == getattr(config, key), key


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("k = 8", "kk = 8", "unknown key 'kk'; it knows apply_b_dec_to_input"),
        ('model = "m"', "", "the key 'model' is missing"),
        ("k = 8", "k = 0", "k is a whole number from 1 up, not 0"),
        ("k = 8", "tokens = 5", "tokens (5) must be at least batch_size (2048)"),
        ("k = 8", "tokens = 4_097\nwarmup_steps = 3", "warmup_steps (3) leaves no step for the cosine"),
        ("k = 8", 'method = "bt"', "method is one of btp, btf, fast, not 'bt'"),
        ("k = 8", 'architecture = "relu"', "architecture is one of"),
        ("licence =", "license =", "entry 1 of sources: unknown key 'license'; did you mean 'licence'?"),
        (VALID, "", "has no [autoencoder] table"),
        ("[autoencoder]", "[autoencoder", "is no TOML file"),
        (VALID[VALID.index("[[") :], "", "names no text: add [[autoencoder.sources]]"),
    ],
)
def test_wrong_config_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(TrainingConfigError, match=re.escape(message)):
        load_autoencoder_config(written(tmp_path, VALID.replace(old, new, 1)))


def test_config_of_nothing_that_can_be_trained_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, VALID.replace("autoencoder", "language_model"))
    with pytest.raises(TrainingConfigError, match=r"has none of \[autoencoder\], \[grid\] and \[acceptability\]; see"):
        run_training(path, tmp_path, tmp_path / "work", None, lambda stage, share: None)


def test_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file '.*no.toml'; see data/configs"):
        load_autoencoder_config(tmp_path / "no.toml")


def test_steps_cover_all_tokens(configure: Configure) -> None:
    assert [configure(tokens=n, warmup_steps=0).steps for n in (128, 129, 1_000)] == [1, 2, 8]


def test_identity_leaves_out_what_changes_no_weight(configure: Configure) -> None:
    config = configure()
    assert replace(config, device="cuda", checkpoint_steps=7).identity() == config.identity()
    assert replace(config, lr=0.5).identity() != config.identity()
