"""Files that once went wrong, in `tests/cases`: each is refused in one line, before anything is loaded or written.

Two are run elsewhere: `hugelr` trains until its loss is no number (`training/test_faults.py`), and the
SAE's `cfg.json` is built with (`test_command_cases.py`, which has the command lines and the stores).
"""

from pathlib import Path

import pytest

from core.catalog import read_setups
from core.cli import main
from core.errors import SetupConfigError

CASES = Path(__file__).resolve().parents[1] / "cases"
TRAIN = {
    "bigwarm": "warmup_steps (1000) leaves no step for the cosine: tokens / batch_size gives 8 in all",
    "bw0": "bandwidth is a finite number above 0, not 0.0",
    "expfloat": "expansion is a whole number from 1 to 4096, not 1.5",
    "grid_fmt": "job_name is text with any of {architecture}, {k}, {layer}",
    "grid_layerint": "entry 1 of models: layers is a list, each entry a whole number from 0 up, not 2",
    "kbig": "k is a whole number from 1 to the SAE's 32 neurons, not 100000",
    "listtable": "is a table, not [{'name': 'x'}]",
    "median0": "median_tokens is a whole number from 1 up, not 0",
    "nameslash": "name is at most 200 letters, digits, '_', '-' and '.', the first a letter or digit, not '../../evil'",
    "neglr": "lr is a finite number above 0, not -1.0",
    "seedneg": "seed is a whole number from 0 to 9223372036854775807, not -1",
    "sharestr": "entry 1 of sources: share is a number above 0 and at most 1, not 'x'",
    "sparsneg": "sparsity is a finite number from 0 up, not -1.0",
    "strlr": "lr is a finite number above 0, not 'fast'",
}
SETUPS = {
    "markup_title": None,  # right as it is: shown as written
    "named_like_the_app_store": "name is any but app.duckdb, the application's own file",
    "unknown_home": "model is a path or a hub's name, not '~nosuchuser/x'",
}


CASE_MESSAGES = {f"train/{name}": words for name, words in TRAIN.items()} | {
    f"setups/{name}": words for name, words in SETUPS.items()
}


@pytest.mark.parametrize(("case", "message"), CASE_MESSAGES.items(), ids=CASE_MESSAGES)
def test_case_is_told_in_one_line(
    case: str,
    message: str | None,
    qwen2_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def nothing_is_loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model was asked for")

    monkeypatch.setattr("core.training.autoencoders.load_language_model", nothing_is_loaded)
    content = (CASES / f"{case}.toml").read_text(encoding="utf-8").replace("@MODEL@", str(qwen2_folder))
    path = tmp_path / "case.toml"
    path.write_text(content, encoding="utf-8")
    if case.startswith("train/"):
        folders = [tmp_path / name for name in ("work", "out", "store")]
        options = [word for folder in folders for word in (f"--{folder.name}", str(folder))]
        assert main(["train", str(path), "--text", str(tmp_path), *options]) == 2
        started, line = capsys.readouterr().err.splitlines()
        assert started.startswith("Training case")
        assert [entry for entry in tmp_path.iterdir()] == [path]
    elif message is None:
        assert read_setups(path)[0].title == "[/bold] <script>alert(1)</script>"
        return
    else:
        with pytest.raises(SetupConfigError) as caught:
            read_setups(path)
        (line,) = str(caught.value).splitlines()
    assert str(path) in line
    assert message is not None
    assert message in line


def test_every_case_is_run() -> None:
    elsewhere = {"train/hugelr"}
    assert {str(f.relative_to(CASES).with_suffix("")) for f in CASES.rglob("*.toml")} == set(CASE_MESSAGES) | elsewhere
