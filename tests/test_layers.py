"""The layers hold: imports are read from the source, so that a module breaks a rule even where no test runs it."""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Top to bottom: a module or folder imports only what stands above it; inside a folder there are no cycles.
ORDER = (
    # the ground
    *("errors", "validated", "progress", "settings", "files", "ray_tasks", "catalog", "console"),
    *(
        "text",
        "models",
        "store",
        "results",
        "build",
        "scoring",
        "steering",
        "inspection",
        "sweep",
        "training",
        "evaluation",
        "interpretability",
    ),
    *("doctor", "api", "commands", "cli", "__main__"),
)
SQL_PLACES = ("core/store", "core/results/app_store.py", "core/results/ratings.py")  # the only ones with SQL
# What must start fast: no deep-learning library at import, not even through another module.
LIGHT = (
    *("errors", "validated", "progress", "settings", "files", "catalog", "console", "cli", "__main__"),
    *("results/published", "results/app_store", "results/export", "text/prompts", "scoring/scores"),
    *("store/reader", "store/schema", "store/shards", "store/batch"),
    *("sweep/request", "sweep/windows", "training/method_comparison"),
    *("results/ratings", "models/judge", "interpretability/contexts", "interpretability/rubric"),
    *("interpretability/ratings", "interpretability/agreement"),
)
MODEL_LIBRARIES = frozenset({"transformers", "transformer_lens"})
HEAVY = MODEL_LIBRARIES | {"torch", "sae_lens", "sentence_transformers"}
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 350, 45  # about 40
MAX_FLAT = {"core": 14, "pages/shared": 16}  # Python files directly in the folder
SQL = re.compile(
    r"\bSELECT\b.*\bFROM\b|\bINSERT\s+INTO\b|\bDELETE\s+FROM\b|\bUPDATE\s+\S+\s+SET\b"
    r"|\b(CREATE|DROP|ALTER)\s+(OR\s+REPLACE\s+)?(TEMP\s+)?(TABLE|VIEW|INDEX)\b|\b(COPY|ATTACH|PRAGMA)\s",
    re.DOTALL,
)


@dataclass(frozen=True)
class Import:
    name: str  # dotted; `from a import b` is a.b
    line: int
    at_load: bool  # runs when the module is loaded: not in a function, not under TYPE_CHECKING

    @property
    def library(self) -> str:
        return self.name.split(".")[0]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports_of(path: Path, root: Path) -> list[Import]:
    package = path.relative_to(root).parent.parts

    def found(node: ast.AST, at_load: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, at_load) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(f"{module}.{alias.name}", node.lineno, at_load) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from found(child, False)
            for child in node.orelse:
                yield from found(child, at_load)
        else:
            inner = at_load and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for child in ast.iter_child_nodes(node):
                yield from found(child, inner)

    return list(found(parsed(path), True))


def modules(root: Path, *places: str) -> list[Path]:
    """Python files at `places`, files or folders; those that are not there are left out."""
    return [file for place in places for file in [root / place, *(root / place).rglob("*.py")] if file.is_file()]


def dotted(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def users_of(libraries: frozenset[str] | set[str], files: list[Path], root: Path) -> list[str]:
    return [
        f"{file.relative_to(root)}:{item.line} imports {item.library}"
        for file in files
        for item in imports_of(file, root)
        if item.library in libraries
    ]


def sql_in(files: list[Path], root: Path) -> list[str]:
    """String literals, docstrings aside, that hold SQL."""
    hits = []
    for file in files:
        tree = parsed(file)
        bodies = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
        docstrings = {id(n.body[0].value) for n in bodies if n.body and isinstance(n.body[0], ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                text = "?".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                text = node.value
            else:
                continue
            if SQL.search(text):
                hits.append(f"{file.relative_to(root)}:{node.lineno} holds SQL")
    return hits


def core_imports_no_streamlit(root: Path) -> list[str]:
    return users_of({"streamlit"}, modules(root, "core"), root)


def core_imports_go_downwards(root: Path) -> list[str]:
    broken = []
    for file in modules(root, "core"):
        place = dotted(file, root).split(".")[1:2]
        if place and place[0] not in ORDER:
            broken.append(f"{file.relative_to(root)} has no place in ORDER: say where it stands")
            continue
        for item in imports_of(file, root):
            if item.library == "core":
                target = item.name.split(".")[1]
                # core/__init__.py stands above everything, so it may import nothing of core
                if not place or (target != place[0] and target not in ORDER[: ORDER.index(place[0])]):
                    broken.append(f"{file.relative_to(root)}:{item.line} imports {item.name}")
    return broken


def loaded_by(file: Path, root: Path) -> dict[Path, list[Import]]:
    """Modules of this repository that loading `file` loads, itself included, with their imports."""
    places = {dotted(path, root): path for path in modules(root, "core", "pages")}
    loaded: dict[Path, list[Import]] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path in loaded:
            continue
        loaded[path] = [item for item in imports_of(path, root) if item.at_load]
        for item in loaded[path]:
            parts = item.name.split(".")
            names = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
            waiting += [places[name] for name in names if name in places]
    return loaded


def core_has_no_import_cycle(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)}:{item.line} leads back to {dotted(file, root)}"
        for file in modules(root, "core")
        if file.name != "__init__.py"
        for path, items in loaded_by(file, root).items()
        for item in items
        if f"{item.name}.".startswith(f"{dotted(file, root)}.")
    ]


def light_modules_load_no_heavy_library(root: Path) -> list[str]:
    files = modules(root, "app.py", *(f"core/{name}.py" for name in LIGHT))
    return [
        f"{file.relative_to(root)} loads {item.library}, through {path.relative_to(root)}:{item.line}"
        for file in files
        for path, items in loaded_by(file, root).items()
        for item in items
        if item.library in HEAVY
    ]


def only_models_and_training_import_transformers(root: Path) -> list[str]:
    allowed = set(modules(root, "core/models", "core/training"))
    return users_of(MODEL_LIBRARIES, [file for file in modules(root, "core") if file not in allowed], root)


def only_models_and_training_import_sae_lens(root: Path) -> list[str]:
    allowed = set(modules(root, "core/models", "core/training"))
    return users_of({"sae_lens"}, [file for file in modules(root, "core") if file not in allowed], root)


def parts_serve_their_own_page(root: Path) -> list[str]:
    """`pages/parts/PAGE` is imported by `pages/PAGE.py` and by itself; `pages/shared` imports no part and no page."""
    broken = []
    for file in modules(root, "app.py", "pages"):
        place = dotted(file, root).split(".")
        page = place[2] if place[:2] == ["pages", "parts"] and len(place) > 2 else place[-1]
        for item in imports_of(file, root):
            target = item.name.split(".")
            if target[:2] == ["pages", "parts"] and (place[1:2] == ["shared"] or target[2:3] != [page]):
                broken.append(f"{file.relative_to(root)}:{item.line} imports {item.name}")
    return broken


def pages_hold_no_sql_and_no_torch(root: Path) -> list[str]:
    files = modules(root, "app.py", "pages")
    return users_of(HEAVY | {"duckdb"}, files, root) + sql_in(files, root)


def only_stores_hold_sql(root: Path) -> list[str]:
    allowed = set(modules(root, *SQL_PLACES))
    files = [file for file in modules(root, "core") if file not in allowed]
    return users_of({"duckdb"}, files, root) + sql_in(files, root)


Rule = Callable[[Path], list[str]]
# each rule with files that break it
RULES: list[tuple[Rule, dict[str, str]]] = [
    (core_imports_no_streamlit, {"core/scoring/scores.py": "def f():\n    import streamlit as st\n"}),
    (core_imports_go_downwards, {"core/settings.py": "from core import store\n"}),
    (core_imports_go_downwards, {"core/settings.py": "from .catalog import Setup\n"}),
    (core_imports_go_downwards, {"core/brand_new.py": ""}),
    (core_imports_go_downwards, {"core/brand_new/a.py": ""}),
    (core_imports_go_downwards, {"core/store/reader.py": "from core.build.activations import token_activations\n"}),
    (parts_serve_their_own_page, {"pages/shared/links.py": "from pages.parts.topic import neuron\n"}),
    (parts_serve_their_own_page, {"pages/generate.py": "from pages.parts.topic.neuron import open_neuron\n"}),
    (parts_serve_their_own_page, {"pages/parts/topic/a.py": "from pages.parts.compare import b\n"}),
    (
        core_has_no_import_cycle,
        {"core/training/a.py": "from core.training.b import x\n", "core/training/b.py": "import core.training.a\n"},
    ),
    (
        light_modules_load_no_heavy_library,
        {"core/store/reader.py": "from core import files\n", "core/files.py": "import torch\n"},
    ),
    (
        only_models_and_training_import_transformers,
        {"core/build/pipeline.py": "from transformers import AutoModel\n"},
    ),
    (
        only_models_and_training_import_sae_lens,
        {"core/steering/placement.py": "from sae_lens import SAE\n"},
    ),
    (pages_hold_no_sql_and_no_torch, {"pages/topic.py": "import torch.nn\n"}),
    (pages_hold_no_sql_and_no_torch, {"pages/topic.py": 'q = f"SELECT {c} FROM neurons"\n'}),
    (only_stores_hold_sql, {"core/scoring/scores.py": "import duckdb\n"}),
    (only_stores_hold_sql, {"core/scoring/scores.py": 'rows = con.execute("CREATE TABLE t (x INTEGER)")\n'}),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in RULES), ids=lambda rule: rule.__name__)
def test_layers_hold(rule: Rule) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize(("rule", "files"), RULES, ids=lambda value: getattr(value, "__name__", "-"))
def test_rule_finds_a_breach(rule: Rule, files: dict[str, str], tmp_path: Path) -> None:
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source, encoding="utf-8")
    assert rule(tmp_path) != []


def test_rules_allow_lazy_and_type_only_imports(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "store.py").write_text(
        '"""SELECT a neuron FROM the store."""\n'
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    import torch\n"
    )
    assert [breach for rule, _ in RULES for breach in rule(tmp_path)] == []


def test_a_newcomer_sees_each_folder_at_a_glance() -> None:
    for folder, most in MAX_FLAT.items():
        files = list((ROOT / folder).glob("*.py"))
        assert 0 < len(files) <= most, f"{folder} holds {len(files)} files: give some of them a folder"


def code_lines(function: ast.FunctionDef) -> int:
    """Lines of a function's body, from behind the signature and the docstring."""
    skipped = 1 if ast.get_docstring(function) is not None and len(function.body) > 1 else 0
    return (function.end_lineno or 0) - function.body[skipped].lineno + 1


def test_modules_and_functions_stay_small() -> None:
    sizes = {
        file: len(file.read_text(encoding="utf-8").splitlines()) for file in modules(ROOT, "app.py", "core", "pages")
    }
    too_long = [f"{file.relative_to(ROOT)} has {n} lines" for file, n in sizes.items() if n > MAX_MODULE_LINES]
    for file in sizes:
        functions = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.FunctionDef)]
        too_long += [
            f"{file.name}: {f.name} has {n} lines" for f in functions if (n := code_lines(f)) > MAX_FUNCTION_LINES
        ]
    assert too_long == []
