"""Adding a setup: what cannot run is refused in one line and nothing is written; what stands in the file is kept."""

import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.catalog import find_setup, missing_parts, read_setups
from core.errors import SetupConfigError, SteerscopeError
from core.models import new_setup
from core.models.model_folder import ModelSizes, local_sizes
from core.models.new_setup import add_setup
from core.models.sae_folder import SaeFolder, read_sae_folder
from tests.core.models.test_sparsify import write as write_sparsify
from tests.fixtures.gguf_files import write_qwen2_gguf

OLD = b'\xef\xbb\xbf# mine\r\n[setups.old]\r\nmodel = "gpt2"   # kept\r\nsae = "s"\r\n'
RELEASE = {"model": "gpt2", "sae": "gpt2-small-res-jb:blocks.6.hook_resid_pre"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpt2_folder: Path, sae_folders: Mapping[str, Path]) -> Path:
    """A folder with a model and an SAE in it, where the program is run; there is no file of setups yet."""
    folder = tmp_path / "home"
    shutil.copytree(gpt2_folder, folder / "models" / "gpt2")
    shutil.copytree(sae_folders["gpt2-topk"], folder / "saes" / "topk")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("STEERSCOPE_SETUPS", raising=False)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_first_setup_makes_the_file_with_paths_relative_to_it(home: Path) -> None:
    given = {"model": str(home / "models" / "gpt2"), "sae": "saes/topk", "dtype": "bfloat16", "chat": True}
    setup = add_setup("mine", given)
    assert tomllib.loads((home / "setups.toml").read_text()) == {
        "setups": {"mine": given | {"model": "models/gpt2"}},
    }
    assert find_setup("mine") == setup
    assert (setup.model, setup.sae) == (str(home / "models" / "gpt2"), str(home / "saes" / "topk"))
    assert missing_parts(setup) == []


def test_what_stands_in_the_file_is_kept_to_the_byte(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "deep" / "my.toml"
    path.parent.mkdir()
    path.write_bytes(OLD)
    path.chmod(0o640)
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(path))
    add_setup("a.b", {**RELEASE, "title": 'sä "\\ \x7f \U0001f600'})
    add_setup("mine", {"model": "models/gpt2", "sae": "saes/topk"}, folder=home)
    assert path.read_bytes().startswith(OLD + b'\r\n[setups."a.b"]\r\n')
    assert path.stat().st_mode & 0o777 == 0o640
    old, other, mine = read_setups(path)
    assert (old.name, other.name, mine.name) == ("old", "a.b", "mine")
    assert other.title == 'sä "\\ \x7f \U0001f600'
    # not below the file's folder: written out
    assert (mine.model, mine.sae) == (str(home / "models" / "gpt2"), str(home / "saes" / "topk"))


def test_linked_file_stays_a_link(home: Path) -> None:
    (home / "real.toml").write_bytes(OLD)
    (home / "setups.toml").symlink_to("real.toml")
    add_setup("mine", RELEASE)
    assert (home / "setups.toml").is_symlink()
    assert [setup.name for setup in read_setups(home / "real.toml")] == ["old", "mine"]


LOCAL = {"model": "models/gpt2", "sae": "saes/topk"}


@pytest.mark.parametrize(
    ("name", "table", "message"),
    [
        ("../x", RELEASE, "name is at most 200 letters"),
        ("old", RELEASE, r"setups.toml' has a setup 'old' already; choose another name, or change it there"),
        ("smollm2", RELEASE, "the name 'smollm2' is taken by a built-in setup"),
        ("x", {"model": "gpt2"}, "setup 'x': the key 'sae' is missing"),
        ("x", {**RELEASE, "model": ""}, "setup 'x': model is some text"),
        ("x", {**RELEASE, "dtype": "int8"}, "setup 'x': dtype is one of float32, bfloat16, float16, not 'int8'"),
        ("x", {**RELEASE, "wide": 1}, "setup 'x': unknown key 'wide'"),
        ("x", {**RELEASE, "sae": "gpt2-small-res:x"}, "sae_lens lists no release 'gpt2-small-res'"),
        ("x", {**RELEASE, "sae": "gpt2-small-res-jb:x"}, "has no SAE 'x'; it has blocks."),
        ("x", {**RELEASE, "model": "a/b/c"}, "model is a folder, a GGUF file or a hub's name; there is no 'a/b/c'"),
        ("x", {**LOCAL, "sae": "saes"}, "'.*saes' is not an SAE folder of sae_lens, sparsify or dictionary_learning"),
        ("x", {**LOCAL, "sae": "saes/none"}, "'saes/none' is not an SAE folder"),
        ("x", {**LOCAL, "model": "saes/topk"}, "is not a model folder: it has no config.json"),
        ("x", {**LOCAL, "sae": "layers.1"}, r"SAE '.*layers.1' reads 8 dimensions at blocks.1.*, but .*gpt2 has 32$"),
        ("x", {**LOCAL, "sae": "layers.7"}, r"no hook point 'blocks.7.hook_resid_post' in .*; it has blocks.0 to bl"),
        ("x", {**LOCAL, "sae": "unnamed"}, "'.*unnamed' does not name its hook point; give hook_name"),
        ("x", {**LOCAL, "hook_name": "blocks.3.hook_mlp_out"}, r"no hook point 'blocks.3.hook_mlp_out'"),
        ("x", {**LOCAL, "sae": "cut"}, "cannot read the SAE in '.*cut': "),
        ("x", {**LOCAL, "reference": "none.txt"}, "no file 'none.txt'; name a file of reference prompts"),
    ],
)
def test_wrong_setup_is_refused_and_nothing_is_written(
    name: str, table: dict[str, Any], message: str, home: Path
) -> None:
    (home / "setups.toml").write_bytes(OLD)
    for folder in ("layers.1", "layers.7", "unnamed"):
        write_sparsify(home / folder)
    shutil.copytree(home / "saes" / "topk", home / "cut")
    (home / "cut" / "sae_weights.safetensors").write_bytes(b"12")
    before = files(home)
    with pytest.raises(SteerscopeError, match=message) as caught:
        add_setup(name, table)
    assert len(str(caught.value).splitlines()) == 1
    assert files(home) == before


@pytest.mark.parametrize("content", [b"[setups.old", b"setups = {}\n", b"setups = 3\n", b"\xff\xfe"])
def test_file_that_takes_no_table_is_left_as_it_is(content: bytes, home: Path) -> None:
    (home / "setups.toml").write_bytes(content)
    with pytest.raises(SetupConfigError, match=r"setups.toml' (is no TOML file|does not take another table)"):
        add_setup("mine", RELEASE)
    assert (home / "setups.toml").read_bytes() == content


def test_write_that_fails_leaves_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "setups.toml").write_bytes(OLD)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(new_setup.shutil, "copymode", full)
    before = files(home)
    with pytest.raises(SetupConfigError, match=r"cannot write '.*': No space left on device; nothing was changed"):
        add_setup("mine", RELEASE)
    assert files(home) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sae", "../outside"),
        ("sae", "link"),
        ("sae", "gpt2-small-res-jb:../../../x"),
        ("model", "/nowhere/at/all"),
        ("model", "~/x"),
        ("model", "beside"),  # in the working folder, which is another
        ("reference", "../outside/cfg.json"),
    ],
)
def test_app_takes_no_path_out_of_the_folder(
    key: str, value: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sparsify(tmp_path / "outside")
    (home / "link").symlink_to(tmp_path / "outside")
    (home / "setups.toml").write_bytes(OLD)
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(home / "setups.toml"))
    (tmp_path / "elsewhere" / "beside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = files(home)
    with pytest.raises(
        SetupConfigError, match=rf"^{key} is a hub's name or lies below '.*home', the folder of the file"
    ):
        add_setup("mine", {**LOCAL, key: value}, only_below=True)
    assert files(home) == before
    assert add_setup("mine", LOCAL, only_below=True).model == str(home / "models" / "gpt2")


def test_sizes_are_told_without_loading(
    qwen2_folder: Path, gpt2_folder: Path, sae_folders: Mapping[str, Path], tmp_path: Path
) -> None:
    assert local_sizes(str(gpt2_folder)) == local_sizes(str(qwen2_folder)) == ModelSizes(32, 3)
    file = write_qwen2_gguf(qwen2_folder, tmp_path / "tiny.gguf")
    assert local_sizes(str(file)) == ModelSizes(32, 3)
    assert local_sizes("nobody/nothing") is None
    for architecture in ("topk", "gated", "matching_pursuit"):
        found = read_sae_folder(sae_folders[f"gpt2-{architecture}"])
        assert found == SaeFolder("sae_lens", 32, 192, "blocks.1.hook_resid_post")
    shutil.copytree(gpt2_folder, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"text_config": {"hidden_size": 8, "n_layer": 2}}))
    assert local_sizes(str(tmp_path / "model")) == ModelSizes(8, 2)
