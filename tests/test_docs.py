"""The docs' examples run, and what they name exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON_CELL = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_cells_of_the_python_guide_run_in_order(
    user_setups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.build.pipeline import build
    from core.catalog import find_setup

    # a tiny instruct model instead of the embedded one
    instruct = user_setups.with_name("instruct.toml")
    tables = user_setups.read_text(encoding="utf-8").replace("chat = true", "chat = false\ninstruct = true")
    instruct.write_text(tables, encoding="utf-8")
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(instruct))
    monkeypatch.setenv("STEERSCOPE_STORE", str(tmp_path))
    setup = find_setup("qwen2-topk")
    assert setup.instruct
    build(setup, tmp_path)
    cells = PYTHON_CELL.findall((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
    assert len(cells) >= 6
    script = "\n".join(cells).replace('open_setup("smollm2")', 'open_setup("qwen2-topk")')
    assert "qwen2-topk" in script
    script += "\nassert len(columns) == 4 and len(answers) == 2 and len(best) == 10 and len(figure.data) == 1\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("none ")


PLACE = re.compile(r"`((?:core|pages|docs|data|tests)/[\w./]+|app\.py)`")


@pytest.mark.parametrize("name", ["docs/architecture.md", "README.md"])
def test_places_that_the_docs_name_exist(name: str) -> None:
    named = set(PLACE.findall((ROOT / name).read_text(encoding="utf-8")))
    made_later = {"data/store/", "pages/NAME.py", "pages/parts/NAME"}  # by a build, by the reader
    assert [place for place in sorted(named - made_later) if not (ROOT / place).exists()] == []
    assert named


def test_functions_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = [path for folder in ("core", "pages") for path in (ROOT / folder).rglob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    called = set(re.findall(r"`(?:\w+\.)?([a-z]+_[a-z_]+)`", text)) | {"make_edit", "score_topic"}
    missing = [name for name in sorted(called) if f"def {name}(" not in source and f"{name} = " not in source]
    assert missing == []


def test_every_core_folder_stands_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    folders = [f"core/{path.parent.name}" for path in (ROOT / "core").glob("*/__init__.py")]
    assert [folder for folder in folders if folder not in text] == []
    assert len(folders) >= 10
