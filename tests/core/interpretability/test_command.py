"""The command's options, checked before any work, and its tables."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from core.cli import main
from core.models import judge
from core.results.ratings import RatingStore
from core.store.reader import Store
from tests.fixtures.judge_endpoint import Endpoint

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `interpret tiny` on a root of this test's own; gives (exit code, stdout, stderr)."""
    (tmp_path / "tiny").symlink_to(store.path.parent)
    (tmp_path / "setups.toml").write_text('[setups.tiny]\nmodel = "no-model"\nsae = "no-sae"\n', encoding="utf-8")
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(tmp_path / "setups.toml"))
    for name in (judge.URL, judge.MODEL, judge.KEY):
        monkeypatch.delenv(name, raising=False)

    def command(*options: str) -> tuple[int, str, str]:
        code = main(["interpret", "tiny", *options, "--store", str(tmp_path)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "no judge is configured; set STEERSCOPE_JUDGE_URL"),
        (["--judge", "http://[::1", "--model", "m"], "--judge is an address such as"),
        (["--judge", "http://a b/c", "--model", "m"], "--judge is an address such as"),
        (["--judge", "http://user:pw@x/v1", "--model", "m"], "without user name and query"),
        (["--judge", "http://x/v1", "--model", "m", "--special"], "--special needs --instances"),
        (["--judge", "http://x/v1", "--model", "m", "--instances", "none.jsonl"], "no file 'none.jsonl'"),
        (["--judge", "http://x/v1", "--model", "m", "--neurons", "0"], "--neurons"),
    ],
)
def test_wrong_options_are_told_in_one_line(run: Run, options: list[str], problem: str) -> None:
    code, out, err = run(*options)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert problem in err


def test_two_judges_and_their_agreement(run: Run, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda asked: json.dumps({"summary": "words", "score": 1 + len(asked) % 5})
    options = ("--neurons", "12", "--judge", endpoint.url, "--model", "m", "--model", "n")
    code, out, err = run(*options, "--dry-run", "--json")
    assert (code, json.loads(out)["ratings"], endpoint.asked) == (0, [], [])
    assert err.count("12 requests to") == 2
    code, out, err = run(*options, "--json")
    assert code == 0, err
    tables = json.loads(out)
    assert [(row["rater"], row["n"]) for row in tables["shares"]] == [("m", 12), ("n", 12)]
    (agreement,) = tables["agreement"]
    assert (agreement["n"], agreement["same"], agreement["kappa_weighted"]) == (12, 1.0, 1.0)
    assert len(tables["ratings"]) == len(endpoint.asked) == 24
    assert len(RatingStore(tmp_path).labels("tiny")) > 0
    assert "Share of neurons rated 4 or 5" in run(*options)[1]
    assert len(endpoint.asked) == 24
