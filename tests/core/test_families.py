"""Each family of models, sharded, goes through the same commands: add-setup, build, score, generate, sweep."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.catalog import find_setup
from core.cli import main
from core.models.loading import load_language_model
from core.models.model_folder import ModelSizes, local_sizes
from tests.fixtures.autoencoders import HOOK_NAME, residual_stream, write_autoencoder
from tests.fixtures.families import FAMILIES, write_family

PROMPT = "The surgeon washed"


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """transformer_lens installs packages where a model for images has no processor; none may be tried here."""
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as where it is not installed
    tried: list[object] = []
    for name in ("check_call", "check_output", "run", "call"):
        monkeypatch.setattr(f"subprocess.{name}", lambda *given, **_: tried.append(given))
    yield
    assert tried == []


@pytest.fixture(params=FAMILIES)
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user_setups: Path) -> Path:
    """The working folder, with `model`, `sae` and 40 reference prompts; no setup yet."""
    model = write_family(tmp_path / "model", request.param)
    metadata = {"model_name": request.param, "prepend_bos": True}
    write_autoencoder(tmp_path / "sae", "topk", residual_stream(model), metadata=metadata)
    lines = (user_setups.parent / "reference.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "reference.jsonl").write_text("".join(lines[:40]), encoding="utf-8")
    (tmp_path / "questions.txt").write_text("What is a heart?\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STEERSCOPE_SETUPS", raising=False)
    monkeypatch.setenv("STEERSCOPE_STORE", str(tmp_path / "store"))
    return tmp_path


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    """What a command prints."""
    capsys.readouterr()
    code = main([*arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_family_goes_through_the_commands(home: Path, user_setups: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedding = str(user_setups.parent / "embedding")
    places = ["--model", "model", "--sae", "sae", "--reference", "reference.jsonl", "--embedding-model", embedding]
    assert main(["add-setup", "tiny", *places, "--instruct"]) == 0, capsys.readouterr().err
    assert main(["build", "tiny"]) == 0, capsys.readouterr().err
    ranked = rows(capsys, "score", "tiny", "--topic", "heart surgery", "--top", "3", "--min-prompts", "3")
    assert [row["rank"] for row in ranked] == [1, 2, 3]
    best = str(ranked[0]["neuron"])
    edits = ["--edit", "none", "--edit", "swap", "--topic", "heart surgery"]
    texts = rows(capsys, "generate", "tiny", "--prompt", PROMPT, *edits, "--tokens", "6", "--seed", "1")
    assert [row["edit"] for row in texts] == ["none", "swap"]
    asked = ["--alphas", "0,400", "--questions", "questions.txt", "--tokens", "6"]
    swept: Any = rows(capsys, "sweep", "tiny", "--neuron", best, *asked)
    assert [answer["alpha"] for answer in swept["answers"]] == [0, 400]


def test_family_is_read_and_decoded_as_transformers_does(home: Path) -> None:
    assert len(list((home / "model").glob("*.safetensors"))) > 1
    assert local_sizes(str(home / "model")) == ModelSizes(32, 3)
    assert main(["add-setup", "tiny", "--model", "model", "--sae", "sae"]) == 0
    ours = load_language_model(find_setup("tiny"))
    theirs = AutoModelForCausalLM.from_pretrained(home / "model").eval()
    tokens = ours.pad([ours.tokenise(PROMPT)])
    with torch.no_grad():
        stream = theirs(tokens.ids, output_hidden_states=True).hidden_states[2]
    torch.testing.assert_close(ours.activations(tokens, HOOK_NAME), stream)
    ids = AutoTokenizer.from_pretrained(home / "model")(PROMPT).input_ids
    assert tokens.ids[0].tolist()[-len(ids) :] == ids
