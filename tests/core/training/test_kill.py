"""The command itself, killed by SIGKILL in the middle and run again: the weights of an unbroken run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

CONFIG = """
[autoencoder]
name = "killed"
model = "{model}"
hook_name = "blocks.1.hook_resid_post"
method = "fast"
keep_special = true
architecture = "jumprelu"
sparsity = 0.1
expansion = 4
tokens = 25_600
batch_size = 128
buffer_size = 512
forward_tokens = 256
checkpoint_steps = 5
evaluation_tokens = 300
device = "cpu"
[[autoencoder.sources]]
path = "chats.jsonl"
licence = "CC0"
"""


def command(config: Path, text: Path, work: Path) -> list[str]:
    out = work / "out"
    return [sys.executable, "-m", "core", "train", *map(str, (config, "--text", text, "--work", work, "--out", out))]


@pytest.mark.slow
def test_training_killed_and_run_again_ends_with_the_same_weights(
    qwen2_folder: Path, small_corpus: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.replace("{model}", str(qwen2_folder)), encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "STEERSCOPE_STORE": str(tmp_path / "store")}

    killed = subprocess.Popen(
        command(config, small_corpus, tmp_path / "killed"), env=environment, stderr=subprocess.DEVNULL
    )
    checkpoints = tmp_path / "killed" / "saes" / "killed" / "checkpoints"
    while not any(checkpoints.glob("step-*")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    assert not (tmp_path / "killed" / "out").exists()

    for work in ("killed", "unbroken"):
        done = subprocess.run(
            command(config, small_corpus, tmp_path / work), env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    resumed, unbroken = (
        load_file(tmp_path / work / "out" / "sae_weights.safetensors") for work in ("killed", "unbroken")
    )
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
