"""The house: pins, sizes, what the repository may not name, and a README and help texts that tell the truth."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import typer.main

from core.cli import app
from pages.shared.glossary.index import TERMS
from tests.test_layers import imports_of, modules

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_BYTES, MAX_DATA_BYTES = 50 * 2**20, 250 * 2**20
# paths of one machine; written in pieces, so that this file does not name them
MACHINE_PATHS = re.compile(r"(?<![\w./<-])/(?:wor[k]|roo[t])/|/op[t]/(?:wheels|pypi)|\.\./share[d]")
CI_SCRIPT = Path(".ci/run")  # the one place that may look for the training text beside the repository


def tracked_files() -> list[Path]:
    """Files that git tracks, relative to the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [Path(name) for name in listed.decode().split("\0") if name]
    return [file for file in files if (ROOT / file).is_file()]


def machine_paths_in(text: str) -> list[str]:
    return [match.group() for match in MACHINE_PATHS.finditer(text)]


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_requirements_are_exact_pins(name: str) -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    requirements = [line for line in lines if line and line != "-r requirements-ray.txt"]
    assert requirements
    assert [line for line in requirements if not re.fullmatch(r"[A-Za-z0-9._-]+==\d+(\.\w+)+", line)] == []


def normalised(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


@pytest.mark.parametrize(("folders", "more"), [(("app.py", "core", "pages"), ()), (("benchmarks",), ("-dev",))])
def test_every_imported_library_is_pinned(folders: tuple[str, ...], more: tuple[str, ...]) -> None:
    files = [f"requirements{suffix}.txt" for suffix in ("", "-ray", *more)]
    lines = [line for name in files for line in (ROOT / name).read_text().splitlines()]
    pinned = {normalised(line.split("==")[0]) for line in lines if "==" in line}
    distributions = packages_distributions()
    imported = {
        item.library: f"{file.relative_to(ROOT)}:{item.line}"
        for file in modules(ROOT, *folders)
        for item in imports_of(file, ROOT)
        if item.library not in {*sys.stdlib_module_names, "benchmarks", "core", "pages"}
    }
    assert imported
    assert {
        library: place
        for library, place in imported.items()
        if pinned.isdisjoint(map(normalised, distributions.get(library, [])))
    } == {}


def test_tracked_files_stay_below_50_mb() -> None:
    sizes = {file: (ROOT / file).stat().st_size for file in tracked_files()}
    assert {str(file): size for file, size in sizes.items() if size > MAX_FILE_BYTES} == {}


def test_data_stays_below_250_mb() -> None:
    files = [file for file in tracked_files() if file.parts[0] == "data"]
    assert 0 < sum((ROOT / file).stat().st_size for file in files) < MAX_DATA_BYTES


def test_no_file_names_a_path_of_one_machine() -> None:
    named = {}
    for file in tracked_files():
        content = (ROOT / file).read_bytes()
        if b"\0" in content:  # weights, images
            continue
        found = machine_paths_in(content.decode("utf-8"))
        if file == CI_SCRIPT:
            found.remove("../" + "shared")
        if found:
            named[str(file)] = found
    assert named == {}


@pytest.mark.parametrize(
    "path", ["/wor" + "k/main/x", "see /roo" + "t/.venv", "/op" + "t/wheels", "../" + "shared/data"]
)
def test_paths_of_one_machine_are_recognised(path: str) -> None:
    assert machine_paths_in(path) != []


@pytest.mark.parametrize("path", ["https://example.org/work/1", "his work/life", "data/work/x", "/usr/bin/chromium"])
def test_other_paths_are_left_alone(path: str) -> None:
    assert machine_paths_in(path) == []


def test_stores_and_environments_are_not_tracked() -> None:
    assert [str(file) for file in tracked_files() if file.suffix in {".duckdb", ".pyc", ".pt", ".pkl", ".bin"}] == []


def test_app_binds_to_localhost_and_sends_no_statistics() -> None:
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert config["server"]["address"] == "localhost"
    assert config["browser"]["gatherUsageStats"] is False


def luminance(colour: str) -> float:
    """Relative luminance of `#RRGGBB`, 0 to 1: WCAG 2.1."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("background", ["backgroundColor", "secondaryBackgroundColor"])
@pytest.mark.parametrize("text", ["textColor", "linkColor", "primaryColor"])
def test_theme_contrast_is_at_least_4_5(theme: str, background: str, text: str) -> None:
    colours = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["theme"][theme]
    dark, bright = sorted([luminance(colours[text]), luminance(colours[background])])
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_readme_commands_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"python -m core ([a-z][a-z-]*)", readme))
    assert {"build", "score", "generate"} <= named
    assert named - COMMANDS.keys() == set()


def test_readme_options_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    unknown = []
    for name, rest in re.findall(r"python -m core ([a-z][a-z-]*)([^`\n|#]*)", readme):
        known = {
            option for parameter in COMMANDS[name].params for option in [*parameter.opts, *parameter.secondary_opts]
        }
        unknown += [
            f"{name} {option}" for option in re.findall(r"--[a-z][a-z-]*", rest) if option not in known | {"--help"}
        ]
    assert unknown == []


def test_readme_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", "\n".join(re.findall(r"`[^`]+`", (ROOT / "README.md").read_text()))))
    assert {"app", "test", "check"} <= targets
    assert named <= targets


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_command_and_its_options_are_documented(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", None)] == []


def test_no_help_text_has_a_word_between_colons() -> None:
    """Rich and Streamlit show an emoji for some of them."""
    texts = {f"{name} --{p.name}": getattr(p, "help", "") for name, command in COMMANDS.items() for p in command.params}
    texts |= {name: f"{term.short} {term.more}" for name, term in TERMS.items()}
    assert [name for name, text in texts.items() if re.search(r":[a-z_+-]+:", text or "")] == []


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"setups", "doctor"}))
def test_readme_shows_command(name: str) -> None:
    assert f"python -m core {name}" in (ROOT / "README.md").read_text(encoding="utf-8")
