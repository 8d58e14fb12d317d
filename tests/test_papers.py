"""The table of the papers' claims: no empty cell, and every page, command and link in it exists."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

from core.evaluation.experiments import find_experiments

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
HEAD = ["what", "the paper says", "page", "command", "found here", "agrees"]
VERDICTS = {"yes", "no", "partly", "not told apart", "not run", "n/a"}


def rows() -> list[dict[str, str]]:
    cells = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in TEXT.splitlines()
        if line.startswith("|")
    ]
    assert cells.count(HEAD) == 2
    return [dict(zip(HEAD, row, strict=True)) for row in cells if row != HEAD and set(row[0]) != {"-"}]


def test_every_claim_has_what_was_found() -> None:
    table = rows()
    assert len(table) > 40
    for row in table:
        assert all(row[name] for name in ("what", "the paper says", "found here")), row
        assert row["agrees"] in VERDICTS, row
        assert row["command"] or row["agrees"] == "n/a", row


def test_every_table_and_figure_of_both_papers_has_a_row() -> None:
    named = " ".join(row["what"] for row in rows())
    for kind, last in (("Fig.", 13), ("Table", 11)):
        numbers = {
            int(n) for group in re.findall(rf"{re.escape(kind)}s? ([\d, ]+)", named) for n in re.findall(r"\d+", group)
        }
        missing = set(range(1, last + 1)) - numbers
        assert missing <= ({9} if kind == "Table" else set()), (kind, missing)  # FAST's text has no Table 9


def test_pages_exist() -> None:
    titles = set(re.findall(r'title="([^"]+)"', (ROOT / "app.py").read_text(encoding="utf-8")))
    for row in rows():
        for page in filter(None, (name.strip() for name in row["page"].split(","))):
            assert page in titles, row


@pytest.mark.parametrize("command", sorted({row["command"].strip("`") for row in rows() if row["command"]}))
def test_commands_are_understood(command: str) -> None:
    python, dash_m, core, name, *arguments = shlex.split(command)
    assert (python, dash_m, core) == ("python", "-m", "core")
    from core.cli import app

    group = typer.main.get_command(app)
    context = group.make_context("core", [name, *arguments], resilient_parsing=False)
    subcommand = group.get_command(context, name)  # type: ignore[attr-defined]
    assert subcommand is not None
    parsed = subcommand.make_context(name, arguments, parent=context)
    if "what" in parsed.params:
        assert find_experiments(parsed.params["what"])
    if "config" in parsed.params:
        tomllib.loads((ROOT / parsed.params["config"]).read_text(encoding="utf-8"))


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
