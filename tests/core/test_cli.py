"""The commands on tiny checkpoints in the real formats: build, score, generate, evaluate, export, and wrong input."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from core.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(user_setups: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with the tiny setups; gives (exit code, stdout, stderr)."""
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(user_setups))

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Path:
    """Stores of two setups, built by the command: GPT-2 with TopK; Qwen2 through its chat template with JumpReLU."""
    root = tmp_path_factory.mktemp("stores")
    environment = os.environ | {"STEERSCOPE_SETUPS": str(user_setups)}
    for setup in ("gpt2-topk", "qwen2-jumprelu"):
        command = [sys.executable, "-m", "core", "build", setup, "--store", str(root)]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    return root


def _json(run: Run, *arguments: str | Path) -> list[dict]:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("setup", ["gpt2-topk", "qwen2-jumprelu"])
def test_score_ranks_neurons(run: Run, stores: Path, setup: str) -> None:
    rows = _json(run, "score", setup, "--topic", "heart surgery", "--top", "5", "--store", stores)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0]["score"] == 1.0
    assert all(0 <= row["score"] <= 1 and row["prompts"] >= 20 and row["top_tokens"] for row in rows)


def test_score_of_one_neuron_is_the_same_as_in_the_ranking(run: Run, stores: Path) -> None:
    best = _json(run, "score", "gpt2-topk", "--topic", "law", "--top", "1", "--store", stores)[0]
    alone = _json(run, "score", "gpt2-topk", "--topic", "law", "--neuron", str(best["neuron"]), "--store", stores)
    assert alone == [best]


def test_score_groups_give_shares_that_sum_to_one(run: Run, stores: Path) -> None:
    rows = _json(run, "score", "gpt2-topk", "--topic", "law", "--groups", "--store", stores)
    for column in ("share_top", "share_all"):
        assert sum(row[column] for row in rows) == pytest.approx(1.0)
    assert all(row["ratio"] == pytest.approx(row["share_top"] / row["share_all"]) for row in rows)


@pytest.mark.parametrize("setup", ["gpt2-topk", "qwen2-jumprelu"])
def test_generate_gives_a_row_an_edit(run: Run, stores: Path, setup: str) -> None:
    edits = ("none", "sae", "clamp", "swap", "weight", "add", "vector", "prompt", "swap+add")
    options = [option for edit in edits for option in ("--edit", edit)]
    arguments = ("generate", setup, "--prompt", "My heart is", "--topic", "medical", *options)
    rows = _json(run, *arguments, "--tokens", "6", "--seed", "1", "--store", stores)
    assert [row["edit"] for row in rows] == list(edits)
    through_sae = {row["edit"] for row in rows if row["contamination"] is not None}
    assert through_sae == {"sae", "clamp", "swap", "weight", "swap+add"}
    assert all(row["perplexity"] > 1 and 0 <= row["distance"] <= 2 for row in rows)
    assert rows == _json(run, *arguments, "--tokens", "6", "--seed", "1", "--store", stores)


def test_generate_per_token_lists_every_token(run: Run, stores: Path) -> None:
    common = ("generate", "gpt2-topk", "--prompt", "The law", "--topic", "law", "--edit", "swap", "--store", stores)
    row = _json(run, *common, "--tokens", "4", "--per-token")[0]
    assert "".join(token["token"] for token in row["tokens"]) == row["text"]
    mean = sum(token["contamination"] for token in row["tokens"]) / len(row["tokens"])
    assert row["contamination"] == pytest.approx(mean, rel=1e-5)


def test_generate_takes_strengths_in_order_and_says_what_edits_do(run: Run, stores: Path) -> None:
    common = ("generate", "gpt2-topk", "--prompt", "The law", "--topic", "law", "--store", stores, "--tokens", "4")
    strengths = ("--neuron", "17", "--alpha", "40", "--neuron", "3", "--alpha", "-5", "--alpha", "0.5")
    code, out, err = run(*common, "--edit", "add", "--edit", "vector", "--edit", "swap", *strengths, "--json")
    assert code == 0
    assert "40 times that of neuron 17, -5 times that of neuron 3." in err
    assert "Vector adds 0.5 times the difference in means" in err
    assert "TopK SAE: swap chooses all 8 active neurons of each token by pre-activation x score." in err
    assert [row["edit"] for row in json.loads(out)] == ["add", "vector", "swap"]
    alone = _json(run, *common, "--edit", "vector", "--alpha", "0.5")[0]
    assert alone["text"] == json.loads(out)[1]["text"]


def test_generate_edits_tokens_within_reach_only(run: Run, stores: Path) -> None:
    common = ("generate", "gpt2-topk", "--prompt", "The law", "--topic", "law", "--edit", "swap", "--store", stores)
    edited = [
        _json(run, *common, "--tokens", "6", "--reach", reach)[0]["positions_edited"] for reach in ("0", "0.9", "1")
    ]
    assert edited[0] > edited[1] > edited[2] == 0


def test_generate_steers_at_another_setups_layer_too(run: Run, stores: Path) -> None:
    # both setups have one hook point here: the second edit acts on what the first leaves
    common = ("generate", "gpt2-topk", "--prompt", "The law", "--edit", "sae", "--tokens", "6", "--store", stores)
    alone, twice = (_json(run, *common, *more)[0] for more in ((), ("--also", "gpt2-topk")))
    assert alone["positions_edited"] == twice["positions_edited"]
    code, _, err = run(*common, "--also", "qwen2-jumprelu")
    assert code == 2
    assert "name setups of one model" in err


def test_evaluate_text_stores_what_it_prints(run: Run, stores: Path) -> None:
    command = ("evaluate", "gpt2-topk", "--what", "text", "--topic", "law", "--n", "3", "--tokens", "4", "--seeds", "2")
    tables = _json(run, *command, "--columns", "swap,sae", "--prompts", "main", "--store", stores)
    assert [row["edit"] for row in tables["text"]] == ["none", "swap", "sae"]
    assert all((row["prompts"], row["n"], row["seeds"]) == ("continuations", 3, 2) for row in tables["text"])
    assert {row["second"] for row in tables["text-pairs"]} == {"sae", "none"}
    out = stores / "text.csv"
    assert run("export", "gpt2-topk", "--what", "text", "--out", out, "--store", stores)[0] == 0
    exported = pd.read_csv(out)
    assert exported["distance"].tolist() == pytest.approx([row["distance"] for row in tables["text"]])


def test_evaluate_loads_no_model_where_none_is_needed(run: Run, stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("core.steering.workbench.load_setup", refuse)
    tables = _json(run, "evaluate", "gpt2-topk", "--what", "coverage,distances", "--store", stores)
    assert {"coverage-summary", "distances"} <= tables.keys()
    code, _, error = run("evaluate", "gpt2-topk", "--what", "coverage,topk", "--store", stores)
    assert code == 1
    assert "AssertionError: a model is loaded" in error


def test_export_scores_equal_the_ranking(run: Run, stores: Path) -> None:
    out = stores / "scores.parquet"
    command = ("export", "gpt2-topk", "--what", "scores", "--topic", "law", "--out", out, "--store", stores)
    assert run(*command)[0] == 0
    ranked = _json(run, "score", "gpt2-topk", "--topic", "law", "--top", "10000", "--store", stores)
    exported = pd.read_parquet(out)
    assert exported["neuron"].tolist() == [row["neuron"] for row in ranked]
    assert exported["score"].tolist() == pytest.approx([row["score"] for row in ranked])


def test_ship_writes_a_folder_that_fits_its_setup(run: Run, stores: Path, tmp_path: Path, user_setups: Path) -> None:
    from core.build.fingerprint import fingerprint
    from core.catalog import find_setup
    from core.store.shipped import find_shipped
    from core.text.prompts import reference_prompts

    code, _, err = run("ship", "gpt2-topk", "--out", tmp_path / "shipped", "--store", stores)
    assert code == 0, err
    assert "MB" in err
    setup = find_setup("gpt2-topk", user_setups)
    due = fingerprint(setup, reference_prompts(setup.reference))
    assert find_shipped("gpt2-topk", due, tmp_path / "shipped") == tmp_path / "shipped" / "gpt2-topk"


def test_sharpness_may_be_found_from_the_store(run: Run, stores: Path) -> None:
    command = ["generate", "gpt2-topk", "--prompt", "The judge", "--topic", "law", "--edit", "swap", "--tokens", "3"]
    code, _, err = run(*command, "--sharpness", "auto", "--store", stores, "--json")
    assert code == 0, err
    code, _, err = run(*command, "--sharpness", "strong", "--store", stores)
    assert (code, err.strip()) == (2, "error: sharpness is a number above 0, or auto; not 'strong'")


def test_setups_say_what_they_lack(run: Run) -> None:
    rows = {row["setup"]: row for row in _json(run, "setups")}
    assert rows["gpt2-topk"]["lacks"] == "nothing"
    assert "weights of gpt2" in rows["gpt2-v5-32k-l6"]["lacks"]


def test_setup_added_by_the_command_is_built_by_the_next(
    run: Run, stores: Path, tmp_path: Path, user_setups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(user_setups.parent)
    monkeypatch.delenv("STEERSCOPE_SETUPS")
    file = user_setups.parent / "setups.toml"
    before = file.read_bytes()
    places = ("--model", "models/qwen2", "--sae", "saes/qwen2-topk", "--reference", "reference.jsonl")
    try:
        code, out, err = run("add-setup", "added", *places, "--embedding-model", "embedding", "--instruct")
        assert (code, out) == (0, "python -m core build added\n")
        assert err.strip() == f"added to {file}; it lacks nothing"
        assert file.read_bytes().startswith(before)
        row = next(row for row in _json(run, "setups") if row["setup"] == "added")
        assert (row["origin"], row["lacks"]) == ("user", "nothing")
        assert run("build", "added", "--prompts", "8", "--store", tmp_path)[0] == 0
        assert run("add-setup", "added", *places)[0] == 2
    finally:
        file.write_bytes(before)


def test_doctor_reports_stores(run: Run, stores: Path) -> None:
    rows = {row["what"]: row for row in _json(run, "doctor", "--store", stores)}
    assert "192 neurons" in rows["store gpt2-topk"]["finding"]
    assert rows["all-MiniLM-L6-v2"]["ok"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score", "nope", "--topic", "x"], "no setup 'nope'"),
        (["score", "gpt2-topk", "--topic", "  "], "the topic is empty"),
        (["score", "gpt2-topk"], "give the topic either"),
        (["score", "gpt2-topk", "--topic-file", "no-such.txt"], "no file 'no-such.txt'"),
        (["score", "gpt2-topk", "--topic", "x", "--neuron", "192"], "neuron 192 is out of range"),
        (["score", "gpt2-topk", "--topic", "x", "--summary", "median"], "summary is one of"),
        (["score", "gpt2-gated", "--topic", "x"], "python -m core build gpt2-gated"),
        (["generate", "gpt2-topk", "--prompt", "  ", "--edit", "none"], "the prompt is empty"),
        (["generate", "gpt2-topk", "--prompt", "x", "--edit", "melt", "--topic", "x"], "no edit 'melt'"),
        (["generate", "gpt2-topk", "--prompt", "x", "--edit", "swap"], "needs a topic"),
        (
            ["generate", "gpt2-topk", "--prompt", "x", "--edit", "add", "--neuron", "3"],
            "give each --neuron its --alpha",
        ),
        (["generate", "gpt2-topk", "--prompt", "x", "--edit", "vector", "--alpha", "1"], "'vector' needs a topic"),
        (
            ["generate", "gpt2-topk", "--prompt", "x", "--edit", "add", "--neuron", "999", "--alpha", "1"],
            "neuron 999 is out of range",
        ),
        (["generate", "gpt2-topk", "--prompt", "x", "--edit", "sae", "--positions", "user"], "need a chat"),
        (
            ["generate", "gpt2-topk", "--prompt", "x", "--topic", "x", "--multiplier", "nan"],
            "multiplier is a finite number, not nan",
        ),
        (["generate", "gpt2-topk", "--prompt", "x " * 400, "--topic", "x"], "exceed the context"),
        (["evaluate", "gpt2-topk", "--what", "weather"], "no experiment 'weather'"),
        (["export", "gpt2-topk", "--what", "weather", "--out", "x.csv"], "no table 'weather'"),
        (["build", "gpt2-topk", "--reference", "no-such.jsonl"], "no file 'no-such.jsonl'"),
        (["train", "no-such.toml"], "no file 'no-such.toml'"),
        (["score", "gpt2-topk", "--topic", "x", "--colour", "red"], "--colour"),
        (["sing"], "sing"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(run: Run, stores: Path, arguments: Sequence[str], words: str) -> None:
    takes_store = arguments[0] in ("score", "generate", "evaluate", "export", "build")
    code, out, err = run(*arguments, *(["--store", stores] if takes_store else []))
    assert code == 2
    assert not out
    assert words in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1


def test_store_of_another_schema_version_is_named(run: Run, stores: Path, tmp_path: Path) -> None:
    path = tmp_path / "gpt2-topk" / "store.duckdb"
    path.parent.mkdir()
    path.write_bytes((stores / "gpt2-topk" / "store.duckdb").read_bytes())
    with duckdb.connect(path) as con:
        con.execute("UPDATE meta SET value = '0' WHERE key = 'schema_version'")
    code, _, err = run("score", "gpt2-topk", "--topic", "x", "--store", tmp_path)
    assert code == 2
    assert "version" in err
    assert "python -m core build gpt2-topk" in err
    assert len(err.splitlines()) == 1


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'sae_lens', 'sentence_transformers'}"
    code = f"import sys; from core.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_labels_are_set_listed_exported_and_imported(run: Run, stores: Path, tmp_path: Path) -> None:
    common = ("labels", "gpt2-topk", "--store", stores)
    rows = _json(run, *common, "--neuron", "17", "--label", "about law")
    assert [(row["neuron"], row["label"], row["source"]) for row in rows] == [(17, "about law", "user")]
    table = tmp_path / "labels.csv"
    assert run(*common, "--out", table)[0] == 0
    assert _json(run, *common, "--neuron", "17", "--label", "") == []
    code, _, err = run(*common, "--import", table)
    assert (code, err.strip()) == (0, "1 labels of source user imported")
    assert [row["label"] for row in _json(run, *common)] == ["about law"]
    code, _, err = run(*common, "--neuron", "192", "--label", "x")
    assert (code, "neuron 192 is out of range" in err) == (2, True)
    assert run(*common, "--neuron", "1")[0] == 2
    assert run(*common, "--import", tmp_path / "none.csv")[0] == 2


def test_vector_writes_what_an_edit_adds(run: Run, stores: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    common = ("vector", "gpt2-topk", "--store", stores, "--out", tmp_path / "v.safetensors")
    lengths = []
    for alpha in ("4", "8"):
        code, out, err = run(*common, "--neuron", "17", "--alpha", alpha, "--json")
        assert code == 0, err
        direction = load_file(tmp_path / "v.safetensors")["direction"]
        assert json.loads(out)["length"] == pytest.approx(float(direction.norm()))
        lengths.append(float(direction.norm()))
    assert lengths[1] == pytest.approx(2 * lengths[0], rel=1e-4)
    assert run(*common, "--edit", "swap", "--topic", "law")[0] == 0
    for wrong in (("--edit", "prompt", "--topic", "law"), ("--edit", "swap"), ("--neuron", "17")):
        assert run(*common, *wrong)[0] == 2
