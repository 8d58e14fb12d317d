"""Command lines, files and stores that once ended in a traceback or went wrong in silence: each is told in one line."""

import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from core.build.pipeline import build
from core.catalog import find_setup
from core.cli import main
from core.errors import StoreError
from core.store.reader import Store
from core.text.prompts import MAX_TOPIC_BYTES

CASES = Path(__file__).resolve().parents[1] / "cases"
SETUP = "gpt2-topk"
LONG = "n" * 300
JUDGE = "STEERSCOPE_JUDGE_URL"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Path:
    """Root of the store of `SETUP`."""
    root = tmp_path_factory.mktemp("stores")
    build(find_setup(SETUP, user_setups), root)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(built, tmp_path / "root"))


@pytest.fixture
def run(
    user_setups: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Runs a command in an empty folder, which it must leave as it was; gives (exit code, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(user_setups))
    monkeypatch.setenv("STEERSCOPE_STORE", str(built))

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield command
    assert not list((tmp_path / "here").iterdir())


GENERATE = ("generate", SETUP, "--prompt", "hi", "--tokens", "2")
SWEEP = ("sweep", "qwen2-topk", "--neuron", "1")
UNDECODABLE = b"caf\xe9".decode("utf-8", "surrogateescape")
# by the name of the case: the command line, and a part of the line that it is answered with
LINES: dict[str, tuple[tuple[object, ...], str]] = {
    "prompt not UTF-8": ((*GENERATE[:3], UNDECODABLE), r"an argument is not UTF-8 text: b'caf\xe9'; write it in UTF-8"),
    "store not UTF-8": (("build", SETUP, "--store", UNDECODABLE), "an argument is not UTF-8 text"),
    "long topic file": (("score", SETUP, "--topic-file", f"{LONG}.txt"), "n.txt': File name too long; name another"),
    "long store": (("score", SETUP, "--topic", "a", "--store", LONG), "File name too long; name another place"),
    "long config": (("train", f"{LONG}.toml"), "File name too long"),
    "long questions": ((*SWEEP, "--questions", LONG), "File name too long"),
    "long text file": (("inspect", SETUP, "--file", LONG), "File name too long"),
    "nobody's home": (("build", SETUP, "--store", "~nosuchuser/x"), "no such home folder: '~nosuchuser/x'"),
    "empty store": (("build", SETUP, "--store", ""), "a path is not empty and has no null character"),
    "null in a path": (("score", SETUP, "--topic-file", "a\0b"), "a path is not empty and has no null character"),
    "seed over 64 bits": (
        (*GENERATE, "--seed", 2**64),
        "'--seed': Input should be less than or equal to 18446744073709",
    ),
    "seed of a sweep": (
        (*SWEEP, "--seed", 10**30),
        "'--seed': Input should be less than or equal to 184467440737095516",
    ),
    "exponent of a range": ((*SWEEP, "--alphas", "0:1e999999:1e999999"), "an alpha is finite and of at most 30 digits"),
    "exponent of an alpha": ((*SWEEP, "--alphas", "1e400"), "an alpha is finite and of at most 30 digits, not 1e400"),
    "reach nan": ((*GENERATE, "--topic", "a", "--reach", "nan"), "reach is a finite number from 0 up, not nan"),
    "reach inf": ((*GENERATE, "--topic", "a", "--reach", "inf"), "reach is a finite number from 0 up, not inf"),
    "reach below 0": ((*GENERATE, "--topic", "a", "--reach", "-1"), "reach is a finite number from 0 up, not -1.0"),
    "multiplier nan": ((*GENERATE, "--topic", "a", "--multiplier", "nan"), "multiplier is a finite number, not nan"),
    "misspelt topic": (
        ("evaluate", SETUP, "--what", "coverage", "--topic", "medcial"),
        "no bundled topic 'medcial'; the nearest are medical, ",
    ),
    "neuron twice": (
        (*GENERATE, *("--neuron", 5, "--alpha", 1, "--neuron", 5, "--alpha", 2)),
        "each neuron has one alpha; neuron 5 is given 2 times",
    ),
    "top of letters": (("score", SETUP, "--topic", "a", "--top", "abc"), "'--top': Input should be a valid integer"),
    "no setup": (("score",), "Missing argument 'setup'"),
    "no such option": (("score", SETUP, "--nope"), "No such option: --nope"),
    "no such command": (("nope",), "No such command 'nope'"),
}


@pytest.mark.parametrize(("arguments", "message"), LINES.values(), ids=LINES)
def test_wrong_command_line_is_told_in_one_line(run: Run, arguments: tuple[object, ...], message: str) -> None:
    code, out, err = run(*arguments)
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    assert line.startswith("error: ")
    assert message in line


def test_wrong_option_names_the_value(run: Run) -> None:
    assert "it is 'abc' (see --help)" in run("score", SETUP, "--topic", "a", "--top", "abc")[2]


def test_no_command_shows_the_help(run: Run) -> None:
    code, out, err = run()
    assert (code, err) == (2, "")
    assert "Usage: python -m core" in out


@pytest.mark.parametrize("url", ["http://[::1", "http://a b/c", "ftp://x", "http://x:99999/", "http://999.1.1.1"])
def test_wrong_judge_is_told_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv(JUDGE, url)
    monkeypatch.setenv("STEERSCOPE_JUDGE_MODEL", "m")
    monkeypatch.setattr("core.api.open_setup", lambda *_, **__: pytest.fail("a model is loaded"))
    code, out, err = run("evaluate", SETUP, "--what", "text", "--judge", "--n", "2")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert JUDGE in line


@pytest.mark.parametrize("topic", ["[/]", "[bold]x", "[link=x]", r"\[/]", "[b]"])
def test_markup_is_shown_as_typed(run: Run, topic: str) -> None:
    code, out, err = run("score", SETUP, "--topic", topic, "--top", "1")
    assert (code, "error" in err) == (0, False)
    assert f"{topic}: neurons of {SETUP}" in out


def test_what_nobody_foresaw_is_told_in_a_line_and_a_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("core.api.open_topics", fail)
    code, out, err = run("score", SETUP, "--topic", "a")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("error: unforeseen, ZeroDivisionError: of all things; please report it with '")
    told = Path(line.split("'")[-2])
    assert "raise ZeroDivisionError" in told.read_text(encoding="utf-8")
    told.unlink()


# ---- large files ----


def test_topic_files_are_limited_and_long_lines_are_cut(run: Run, tmp_path: Path) -> None:
    one_line, many = tmp_path / "one.txt", tmp_path / "many.txt"
    one_line.write_text("heart surgery " * (MAX_TOPIC_BYTES // 14 + 1), encoding="utf-8")
    many.write_text("".join(f"line {i}\n" for i in range(52_000)), encoding="utf-8")
    code, _, err = run("score", SETUP, "--topic-file", one_line)
    assert (code, "the file of a topic has at most 4: take a sample of it" in err) == (2, True)
    code, _, err = run("score", SETUP, "--topic-file", many)
    assert (code, "it has 52,000 prompts; a topic takes at most 2,000: take a sample of it" in err) == (2, True)
    code, _, err = run(*SWEEP, "--questions", many)
    assert (code, "a list of questions takes at most 2,000" in err) == (2, True)
    one_line.write_text("heart surgery " * (MAX_TOPIC_BYTES // 20), encoding="utf-8")
    cut = tmp_path / "cut.txt"
    cut.write_text("heart surgery " * 1_000, encoding="utf-8")
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    long, short = (run("score", SETUP, "--topic-file", file, "--json") for file in (one_line, cut))
    assert long[:2] == short[:2]
    assert time.process_time() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


# ---- results ----


def test_results_are_tried_first_and_printed_whatever_happens(
    run: Run, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = ("evaluate", SETUP, "--what", "coverage", "--store", root)
    (root / "app.duckdb").write_bytes(b"junk" * 5_000)
    code, out, err = run(*evaluate)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "app.duckdb' is damaged: " in line
    assert f"repair it: mv {root / 'app.duckdb'} {root / 'app.duckdb.damaged'}" in line
    (root / "app.duckdb").unlink()

    def full(*_: object) -> None:
        from core.errors import StoreWriteError

        raise StoreWriteError(root, "No space left on device", "the rest is intact")

    monkeypatch.setattr("core.results.app_store.AppStore.save_result", full)
    code, out, err = run(*evaluate)
    assert code == 2
    assert "Share of neurons active" in out
    assert "No space left on device" in err.splitlines()[-1]
    code, out, err = run(*evaluate, "--json")
    assert (code, "coverage-summary" in json.loads(out)) == (2, True)


def test_stopped_evaluate_goes_on(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = ("evaluate", SETUP, "--what", "coverage,distances", "--topic", "medical", "--topic", "law", "--json")
    whole = run(*evaluate, "--store", root)[1]
    (root / "app.duckdb").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("core.evaluation.distances.run", _stop)
        assert run(*evaluate, "--store", root)[0] == 1
    with monkeypatch.context() as patch:
        patch.setattr("core.evaluation.coverage.run", lambda *_: pytest.fail("it is finished"))
        code, out, _ = run(*evaluate, "--store", root)
    assert (code, out) == (0, whole)
    with monkeypatch.context() as patch:  # what has ended begins anew
        patch.setattr("core.evaluation.coverage.run", _stop)
        assert run(*evaluate, "--store", root)[0] == 1


def test_stopped_text_experiment_goes_on(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.evaluation.text import _Texts

    options = ("--topic", "medical", "--topic", "law", "--columns", "sae", "--prompts", "unaligned", "--n", "2")
    evaluate = ("evaluate", SETUP, "--what", "text", *options, "--tokens", "3", "--json", "--store", root)
    whole = run(*evaluate)[1]
    (root / "app.duckdb").unlink()
    column, seen = _Texts.column, []

    def stops_at_law(self: _Texts, columns: object, *rest: object) -> object:
        topic = columns.scored.topic.name  # type: ignore[attr-defined]
        seen.append(topic)
        return _stop() if topic == "law" and stopping else column(self, columns, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(_Texts, "column", stops_at_law)
    stopping = True
    assert run(*evaluate)[0] == 1
    stopping = False
    seen.clear()
    code, out, _ = run(*evaluate)
    assert code == 0
    for table, rows in json.loads(whole).items():
        if table == "text-run":  # what this run took
            continue
        for again, row in zip(json.loads(out)[table], rows, strict=True):
            numbers = [name for name, value in row.items() if isinstance(value, float)]
            assert {**again, **dict.fromkeys(numbers)} == {**row, **dict.fromkeys(numbers)}, table
            # the last digits of sums may differ
            assert [again[name] for name in numbers] == pytest.approx([row[name] for name in numbers], rel=1e-4), table
    assert set(seen) == {"law"}


def _stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# ---- damaged stores ----


def _sql(statement: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with closing(duckdb.connect(path)) as con:
            con.execute(statement)

    return damage


def _with_nan_embeddings(path: Path) -> None:
    _sql("UPDATE embeddings SET embedding = [CAST('NaN' AS FLOAT)] || embedding[2:] WHERE prompt = 3")(path)


STORES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (lambda path: os.truncate(path, path.stat().st_size // 2), "is damaged: "),
    "no meta": (_sql("DELETE FROM meta"), "has schema version unknown"),
    "no d_sae": (_sql("DELETE FROM meta WHERE key = 'd_sae'"), "d_sae in table 'meta' is a whole number from 1"),
    "d_sae a word": (_sql("UPDATE meta SET value = 'many' WHERE key = 'd_sae'"), "from 1 to 16777216, not 'many'"),
    "d_sae too large": (_sql("UPDATE meta SET value = '9' || repeat('0', 18) WHERE key = 'd_sae'"), "not '9000"),
    "other d_sae": (_sql("UPDATE meta SET value = '200' WHERE key = 'd_sae'"), "'neurons' has 192 rows, not 200"),
    "no embeddings": (_sql("DELETE FROM embeddings"), "table 'embeddings' has 0 rows, not 96"),
    "too few embeddings": (_sql("DELETE FROM embeddings WHERE prompt > 90"), "table 'embeddings' has 91 rows, not 96"),
    "no activations": (_sql("DELETE FROM activations"), "table 'activations' has 0 rows, not "),
    "NaN embeddings": (_with_nan_embeddings, "no finite number"),
    "NaN activations": (_sql("UPDATE activations SET \"sum\" = 'NaN' WHERE prompt = 3"), "no finite number"),
    "other type": (_sql("ALTER TABLE prompts ALTER n_tokens TYPE VARCHAR"), "is of type VARCHAR, not INTEGER"),
    "SQLite": (lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(9_000)), "not a valid DuckDB database file"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), STORES.values(), ids=STORES)
def test_damaged_store_is_named_where_it_is_used(
    run: Run, root: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(root / SETUP / "store.duckdb")
    code, out, err = run("score", SETUP, "--topic", "heart", "--store", root)
    (line,) = err.splitlines()
    assert (code, out) == (2, "")
    assert message.removesuffix("s") in line
    assert line.endswith(f"python -m core build {SETUP} --store {root}")
    with pytest.raises(StoreError), Store.open(root, SETUP) as store:
        store.check()


def test_doctor_names_every_damaged_store(run: Run, built: Path, tmp_path: Path) -> None:
    root = tmp_path / "all"
    for number, (damage, _) in enumerate(STORES.values()):
        shutil.copytree(built / SETUP, root / f"store-{number}")
        damage(root / f"store-{number}" / "store.duckdb")
    shutil.copytree(built / SETUP, root / "whole")
    code, out, _ = run("doctor", "--store", root, "--json")
    rows = {row["what"]: row for row in json.loads(out)}
    assert code == 1
    assert rows["store whole"]["ok"]
    for number, (_, message) in enumerate(STORES.values()):
        row = rows[f"store store-{number}"]
        assert not row["ok"]
        assert message in row["finding"]
        assert f"python -m core build store-{number} --store {root}" in row["finding"]


def test_doctor_ends_well_where_all_is_well(run: Run, root: Path) -> None:
    code, out, _ = run("doctor", "--store", root, "--json")
    assert code == (0 if all(row["ok"] for row in json.loads(out)) else 1)
    assert {row["what"]: row["ok"] for row in json.loads(out)}[f"store {SETUP}"]


# ---- setups, SAE and model folders ----


def test_wrong_setup_leaves_the_others_listed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "setups.toml"
    good = '[setups.good]\r\nmodel = "m"\r\nsae = "s"\r\ntitle = "[/bold] x"\r\n'
    file.write_bytes(b"\xef\xbb\xbf" + good.encode() + b'[setups.bad]\r\nmodel = "~nosuchuser/x"\r\nsae = "s"\r\n')
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(file))
    code, out, err = run("setups")
    assert code == 2
    assert "smollm2" in out
    assert "[/bold] x" in out
    assert "[setups.bad]: model is a path or a hub's name, not '~nosuchuser/x'" in err
    for content in (b"x = " + b"[" * 3_000, b"n = " + b"9" * 5_000, b"\xff\xfe"):
        file.write_bytes(content)
        code, out, err = run("setups")
        assert (code, "smollm2" in out, len(err.splitlines())) == (2, True, 1)


MODELS = {
    "a list": "[]",
    "no heads": '{"num_attention_heads": 0}',
    "a word for its width": '{"hidden_size": "wide"}',
}


@pytest.mark.parametrize("case", [*MODELS, "k of the SAE"])
def test_wrong_folder_is_told_before_the_build(
    run: Run, case: str, user_setups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = find_setup(SETUP, user_setups)
    model = Path(shutil.copytree(setup.model, tmp_path / "model"))
    sae = Path(shutil.copytree(setup.sae, tmp_path / "sae"))
    if case in MODELS:
        known, wrong = json.loads((model / "config.json").read_text()), json.loads(MODELS[case])
        if isinstance(wrong, dict):
            wrong = known | {
                {"num_attention_heads": "n_head", "hidden_size": "n_embd"}[key]: wrong[key] for key in wrong
            }
        (model / "config.json").write_text(json.dumps(wrong))
    else:
        shutil.copy(CASES / "sae" / "topk_k_a_word.json", sae / "cfg.json")
    file = tmp_path / "setups.toml"
    file.write_text(f'[setups.x]\nmodel = "{model}"\nsae = "{sae}"\nreference = "{setup.reference}"\n')
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(file))
    code, out, err = run("build", "x", "--store", tmp_path / "store")
    *progress, line = err.splitlines()
    assert (code, out) == (2, "")
    assert line.startswith("error: cannot load ")
    assert not any(" 100% activations" in told for told in progress)
