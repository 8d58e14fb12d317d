"""A folder of tiny checkpoints, and the program's commands run on them as processes."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETUP = "soak"
_SHOWN = 20  # problems that are printed

TRAIN = """
[autoencoder]
name = "soak"
model = "MODEL"
hook_name = "blocks.1.hook_resid_post"
context_size = 32
expansion = 2
k = 4
tokens = 4_096
batch_size = 128
buffer_size = 512
forward_tokens = 256
warmup_steps = 2
median_tokens = 256
checkpoint_steps = 4
evaluation_tokens = 200
device = "cpu"
autocast = false
[[autoencoder.sources]]
path = "text.jsonl"
licence = "CC0"
"""


@dataclass
class Outcome:
    """What a part did, and what went wrong in it."""

    what: str
    done: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.done:,} {self.what}, {len(self.problems):,} problems", *self.problems[:_SHOWN]]
        return "\n    ".join(lines)


@dataclass(frozen=True)
class Bench:
    """A folder with tiny checkpoints, the setups that name them, and a store built once."""

    folder: Path

    @classmethod
    def write(cls, folder: Path) -> "Bench":
        """
        Raises:
            RuntimeError: the store cannot be built.
        """
        from tests.fixtures.autoencoders import residual_stream, write_autoencoder
        from tests.fixtures.language_models import write_embedding_model, write_qwen2
        from tests.fixtures.text import write_reference

        model = write_qwen2(folder / "model")
        metadata = {"model_name": "soak", "prepend_bos": False}
        write_autoencoder(folder / "sae", "topk", residual_stream(model), metadata=metadata, seed=0)
        write_embedding_model(folder / "embedding")
        write_reference(folder / "reference.jsonl", 96)
        shutil.copy(folder / "reference.jsonl", folder / "text.jsonl")
        (folder / "setups.toml").write_text(
            f'[setups.{SETUP}]\nmodel = "model"\nsae = "sae"\nhook_name = "blocks.1.hook_resid_post"\ndevice = "cpu"\n'
            'reference = "reference.jsonl"\nembedding_model = "embedding"\nchat = true\n',
            encoding="utf-8",
        )
        (folder / "train.toml").write_text(TRAIN.replace("MODEL", str(model)), encoding="utf-8")
        bench = cls(folder)
        if (problem := ended(bench.start(["build", SETUP, "--store", str(bench.base)]))) is not None:
            raise RuntimeError(f"the first build failed: {problem}")
        return bench

    @property
    def base(self) -> Path:
        """The folder of the built store."""
        return self.folder / "base"

    def environment(self) -> dict[str, str]:
        own = {"STEERSCOPE_SETUPS": str(self.folder / "setups.toml"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        return {name: value for name, value in os.environ.items() if name != "STEERSCOPE_STORE"} | own

    def start(self, arguments: list[str]) -> "subprocess.Popen[str]":
        """A command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "core", *arguments],
            cwd=ROOT,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def ended(process: "subprocess.Popen[str]") -> str | None:
    """Waits for a command; what went wrong with it, if anything."""
    _, errors = process.communicate()
    if process.returncode == 0 and "Traceback" not in errors:
        return None
    return errors.strip().splitlines()[-1] if errors.strip() else f"exit code {process.returncode}"
