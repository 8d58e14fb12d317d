"""Configs of one SAE: read from TOML, wrong keys and values named."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import MissingFileError, TrainingConfigError
from core.training.autoencoder_config import AutoencoderConfig, load_autoencoder_config
from core.training.corpus import TextSource
from tests.core.training.conftest import Configure

CONFIGS = Path(__file__).resolve().parents[3] / "data" / "configs"
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


def test_embedded_sae_reads_the_middle_of_six_blocks() -> None:
    config = load_autoencoder_config(CONFIGS / "demo_base_sae.toml")
    assert (config.hook_name, config.architecture, config.k, config.expansion) == (
        "blocks.2.hook_resid_post",
        "topk",
        32,
        16,
    )
    assert config.tokens >= 3_000_000


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


def test_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file '.*no.toml'; see data/configs"):
        load_autoencoder_config(tmp_path / "no.toml")


def test_steps_cover_all_tokens(configure: Configure) -> None:
    assert [configure(tokens=n, warmup_steps=0).steps for n in (128, 129, 1_000)] == [1, 2, 8]


def test_identity_leaves_out_what_changes_no_weight(configure: Configure) -> None:
    config = configure()
    assert replace(config, device="cuda", checkpoint_steps=7).identity() == config.identity()
    assert replace(config, lr=0.5).identity() != config.identity()
