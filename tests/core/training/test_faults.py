"""Faults of SAE training as the command meets them: exit code 2, one clear line, and nothing lost."""

import gzip
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.cli import main
from core.training import autoencoders
from tests.fixtures.full_disk import file_size_limit
from tests.fixtures.language_models import write_qwen2

CONFIG = """
[autoencoder]
name = "tiny"
model = "MODEL"
hook_name = "blocks.1.hook_resid_post"
method = "fast"
keep_special = true
expansion = 4
k = 4
tokens = 1_536
batch_size = 128
buffer_size = 512
forward_tokens = 256
warmup_steps = 2
context_size = 32
checkpoint_steps = 3
evaluation_tokens = 300
device = "cpu"
[[autoencoder.sources]]
path = "chats.jsonl"
licence = "CC0"
"""

CASES = Path(__file__).resolve().parents[2] / "cases" / "train"
Train = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def text(small_corpus: Path, tmp_path: Path) -> Path:
    """A copy of the small corpus to spoil."""
    return Path(shutil.copytree(small_corpus, tmp_path / "text"))


@pytest.fixture
def train(qwen2_folder: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """Trains by the config above, with changes; returns the exit code and the lines on stderr after the progress."""

    def run(changes: dict[str, str] | None = None, model: Path = qwen2_folder) -> tuple[int, list[str]]:
        content = CONFIG.replace("MODEL", str(model))
        for old, new in (changes or {}).items():
            assert old in content
            content = content.replace(old, new)
        (tmp_path / "config.toml").write_text(content, encoding="utf-8")
        code = main(["train", *map(str, options(tmp_path))])
        return code, [line for line in capsys.readouterr().err.splitlines() if re.match("error: |stopped", line)]

    return run


def options(folder: Path) -> list[object]:
    work, out, store = folder / "work", folder / "out", folder / "store"
    return [folder / "config.toml", "--text", folder / "text", "--work", work, "--out", out, "--store", store]


def spoil(file: Path, number: int, row: object) -> None:
    """Puts another row at line `number` of a .jsonl file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    lines[number - 1] = row if isinstance(row, str) else json.dumps(row)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---- bad input ----

SPEECH = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [SPEECH, {"content": "hi"}]},
            "message 2 of line 7 of 'FILE' has no 'role'; each needs 'role' and 'content'",
        ),
        ({"messages": [{"role": " ", "content": "hi"}]}, "message 1 of line 7 of 'FILE' has no 'role'"),
        ({"messages": [{"role": "user"}]}, "message 1 of line 7 of 'FILE' has no 'content'"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1 of line 7 of 'FILE' has no 'content'"),
        ({"messages": ["hello"]}, "message 1 of line 7 of 'FILE' has no 'role'"),
        ({"messages": None}, "'FILE': line 7 has neither 'text' nor 'messages'"),
        ({"messages": []}, "line 7 of 'FILE' has no messages"),
        ({"text": 3}, "'FILE': line 7 has neither 'text' nor 'messages'"),
        ({"prompt": "x"}, "'FILE': line 7 has neither 'text' nor 'messages'"),
        (["hello"], "'FILE': line 7 has neither 'text' nor 'messages'"),
        ("{", "'FILE': line 7 is not JSON"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value),
)
def test_wrong_conversation_is_named(train: Train, text: Path, row: object, message: str) -> None:
    spoil(text / "chats.jsonl", 7, row)
    code, errors = train()
    assert code == 2
    (line,) = errors
    assert message.replace("FILE", str(text / "chats.jsonl")) in line


def test_plain_text_among_conversations_is_named(train: Train, text: Path) -> None:
    spoil(text / "chats.jsonl", 7, {"text": "plain"})
    code, (line,) = train({'method = "fast"': 'method = "btf"'})
    assert code == 2
    assert "has no messages; plain text trains with method 'btp'" in line


@pytest.mark.parametrize("kind", ["binary", "cut short"])
def test_unreadable_text_is_named(train: Train, text: Path, kind: str) -> None:
    file = text / "chats.jsonl.gz"
    whole = gzip.compress((text / "chats.jsonl").read_bytes())
    file.write_bytes(os.urandom(1_000) if kind == "binary" else whole[: len(whole) // 2])
    code, errors = train({"chats.jsonl": "chats.jsonl.gz"})
    assert code == 2
    (line,) = errors
    assert f"'{file}': cannot be read" in line


def test_text_in_another_encoding_is_named(train: Train, text: Path) -> None:
    (text / "chats.jsonl").write_bytes("{'text': 'é'}".encode("latin-1"))
    code, errors = train()
    assert code == 2
    assert "cannot be read" in errors[0]
    assert "utf-8" in errors[0]


NO_WORDS = [{"messages": [{"role": "user", "content": ""}]}] * 300


@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        ([], {}),
        (NO_WORDS, {"keep_special = true": "n_gram = 0"}),
        ([{"messages": [SPEECH]}], {}),  # none of it falls on the held-out side
    ],
    ids=["no lines", "no words", "nothing held out"],
)
def test_empty_dataset_is_named_before_training(
    train: Train, text: Path, tmp_path: Path, rows: list[object], changes: dict[str, str]
) -> None:
    (text / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    code, errors = train(changes)
    assert code == 2
    (line,) = errors
    assert re.search(r"nothing to train on: no (training|held-out) text in chats.jsonl; name larger sources", line)
    assert not (tmp_path / "work" / "saes" / "tiny").exists()


def test_fewer_tokens_than_a_block_are_named(train: Train, text: Path) -> None:
    (text / "texts.jsonl").write_text('{"text": "a few words"}\n', encoding="utf-8")
    changes = {'"fast"': '"btp"', "chats.jsonl": "texts.jsonl", "context_size = 32": "context_size = 256"}
    code, errors = train(changes)
    assert code == 2
    assert re.search(r"nothing to train on: \d+ tokens, fewer than one block of context_size 256", errors[0])


def test_missing_template_is_named(train: Train, gpt2_folder: Path) -> None:
    code, errors = train(model=gpt2_folder)
    assert code == 2
    assert "has no chat template, which methods btf and fast need; train on a chat model, or by method btp" in errors[0]


def test_longer_conversation_is_truncated_and_told_in_the_card(train: Train, text: Path, tmp_path: Path) -> None:
    long = {"messages": [SPEECH, {"role": "assistant", "content": "on and on " * 200}]}
    for number in (5, 6, 7):
        spoil(
            text / "chats.jsonl", number, {"messages": [{**SPEECH, "content": f"number {number}"}, *long["messages"]]}
        )
    assert train({"expansion = 4": "expansion = 4\nn_gram = 0\nmax_conversation_tokens = 200"}) == (0, [])
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    told = re.search(r"- ([\d,]+) conversations in a pass, (\d+) truncated at 200 tokens\.", card)
    assert told is not None
    assert int(told[1].replace(",", "")) > 1_000
    assert told[2] == "3"


def test_hook_point_that_is_not_there_is_named(train: Train) -> None:
    code, errors = train({"blocks.1": "blocks.9"})
    assert code == 2
    assert "no hook point 'blocks.9.hook_resid_post'" in errors[0]


# ---- what was saved before ----


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_checkpoint_of_another_width_is_named(
    train: Train, qwen2_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(qwen2_folder, tmp_path / "model"))
    with monkeypatch.context() as patch:
        patch.setattr("core.training.autoencoders.evaluate_autoencoder", stop)
        assert train(model=model) == (1, ["stopped; run the same command again to continue where possible"])
    monkeypatch.setattr("tests.fixtures.language_models.D_MODEL", 64)
    write_qwen2(model)
    code, errors = train(model=model)
    assert code == 2
    (line,) = errors
    assert "step-12' was trained on 32 dimensions at blocks.1.hook_resid_post, where" in line
    assert "now has 64; restore the model, or delete" in line


def test_result_that_cannot_be_copied_is_named(train: Train, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    code, errors = train()
    assert code == 2
    (line,) = errors
    assert f"cannot write to '{tmp_path / 'out'}'" in line
    assert f"'{tmp_path / 'work' / 'saes' / 'tiny' / 'sae'}' is intact" in line
    (tmp_path / "out").unlink()
    assert train() == (0, [])


def test_full_disk_loses_nothing(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full first at the checkpoint's SAE, then its buffer, then its optimiser, and at the finished SAE."""
    save, finish, errors = autoencoders.save_checkpoint, autoencoders.AutoencoderRun.finish, []
    checkpoints = tmp_path / "work" / "saes" / "tiny" / "checkpoints"
    for size in (1_000, 50_000, 65_800):

        def save_without_room(folder: Path, *rest: Any, size: int = size) -> Path:
            with file_size_limit(size) if any(folder.glob("step-*")) else nullcontext():
                return save(folder, *rest)

        monkeypatch.setattr(autoencoders, "save_checkpoint", save_without_room)
        errors.append(train())
        assert [path.name for path in checkpoints.iterdir()] == ["step-3"]
    monkeypatch.undo()

    def finish_without_room(*arguments: Any, **options: Any) -> Path:
        with file_size_limit(20_000):
            return finish(*arguments, **options)

    monkeypatch.setattr(autoencoders.AutoencoderRun, "finish", finish_without_room)
    errors.append(train())
    monkeypatch.undo()
    assert [path.name for path in checkpoints.iterdir()] == ["step-12"]
    for (code, (line,)), step in zip(errors, ("step-3", "step-3", "step-3", "step-12"), strict=True):
        assert code == 2
        assert re.search(rf"cannot write to .*{step}' is intact; free space and run the same command again", line)
    assert not (tmp_path / "out").exists()

    assert train() == (0, [])
    resumed = load_file(tmp_path / "out" / "sae_weights.safetensors")
    shutil.rmtree(tmp_path / "work")
    assert train() == (0, [])
    unbroken = load_file(tmp_path / "out" / "sae_weights.safetensors")
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


# ---- numbers that are none ----


def test_first_loss_that_is_no_number_stops_the_run(train: Train, tmp_path: Path) -> None:
    assert "lr=1e30" in (CASES / "hugelr.toml").read_text(encoding="utf-8")
    code, (line,) = train({"warmup_steps = 2": "warmup_steps = 2\nlr = 1e30"})
    assert code == 1
    assert re.search(r"tiny stopped training, as the loss is (nan|inf) at step \d+: lr \(1e\+30\) is suspect", line)
    assert "there was no checkpoint yet; change it, and give the config another name" in line
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "work" / "saes" / "tiny" / "sae").exists()


def test_last_good_checkpoint_outlives_a_loss_that_is_no_number(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = autoencoders.save_checkpoint

    def then_spoil(folder: Path, config: Any, trainer: Any, *rest: Any) -> Path:
        kept = save(folder, config, trainer, *rest)
        trainer.sae.W_enc.data[0, 0] = float("nan")
        return kept

    monkeypatch.setattr(autoencoders, "save_checkpoint", then_spoil)
    code, (line,) = train()
    checkpoint = tmp_path / "work" / "saes" / "tiny" / "checkpoints" / "step-3"
    assert code == 1
    assert f"'{checkpoint}' is the last good one" in line
    assert checkpoint.is_dir()
    assert not (tmp_path / "out").exists()
