"""What fires on a text, against transformers and sae_lens alone."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import SAE
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.build.pipeline import build
from core.catalog import find_setup
from core.cli import main
from core.errors import UsageError
from core.inspection import MAX_CHARACTERS, inspect_text
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store

TEXT = "The judge read the law aloud."
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Path:
    folder = tmp_path_factory.mktemp("inspection")
    for name in ("gpt2-topk", "qwen2-jumprelu"):
        build(find_setup(name, user_setups), folder)
    return folder


@pytest.fixture(scope="module")
def bench(root: Path, user_setups: Path) -> Iterator[Workbench]:
    with Store.open(root, "gpt2-topk") as store:
        yield open_workbench(find_setup("gpt2-topk", user_setups), store)


@pytest.fixture(scope="module")
def activations(gpt2_folder: Path, sae_folders: dict[str, Path]) -> np.ndarray:
    """Post-activations of TEXT behind the end-of-text token, [pos d_sae], by the libraries alone."""
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(TEXT).input_ids]])
    with torch.no_grad():
        hidden = AutoModelForCausalLM.from_pretrained(gpt2_folder)(ids, output_hidden_states=True).hidden_states[2]
        return SAE.load_from_disk(sae_folders["gpt2-topk"]).encode(hidden)[0].numpy()


def test_tokens_name_their_strongest_neurons(bench: Workbench, activations: np.ndarray) -> None:
    tokens = inspect_text(bench, TEXT, top=3).tokens
    assert "".join(tokens["token"][1:]) == TEXT
    assert tokens["special"].tolist() == [True] + [False] * (len(tokens) - 1)
    assert tokens["n_active"].tolist() == (activations != 0).sum(1).tolist()
    for row, expected in zip(tokens.itertuples(), activations, strict=True):
        strongest = np.argsort(-expected, kind="stable")[:3]
        assert row.neurons == strongest.tolist()
        assert row.activations == pytest.approx(expected[strongest].tolist(), rel=1e-4)


def test_neurons_are_summed_over_ordinary_tokens(bench: Workbench, activations: np.ndarray) -> None:
    neurons = inspect_text(bench, TEXT).neurons.set_index("neuron")
    ordinary = activations[1:]
    active = np.flatnonzero(ordinary.any(0))
    assert sorted(neurons.index) == active.tolist()
    assert neurons["sum"].is_monotonic_decreasing
    np.testing.assert_allclose(neurons.loc[active, "sum"], ordinary.sum(0)[active], rtol=1e-4)
    np.testing.assert_allclose(neurons.loc[active, "max"], ordinary.max(0)[active], rtol=1e-4)
    assert neurons.loc[active, "tokens"].tolist() == (ordinary != 0).sum(0)[active].tolist()
    assert neurons["score"].isna().all()


def test_topic_share_is_what_the_scores_weigh_in(bench: Workbench, activations: np.ndarray) -> None:
    from core.api import score

    scored = score(bench, "law")
    found = inspect_text(bench, TEXT, scored)
    weight = scored.scores.steering_vector()
    expected = (activations * weight).sum(1) / activations.sum(1)
    assert np.isnan(found.tokens["topic_share"][0])  # a special token
    np.testing.assert_allclose(found.tokens["topic_share"][1:], expected[1:], rtol=1e-4)
    np.testing.assert_allclose(found.tokens["contamination"], [np.nan, *(activations @ (1 - weight))[1:]], rtol=1e-4)
    ranked = scored.scores.ranked().set_index("neuron")
    known = found.neurons.dropna(subset="rank").set_index("neuron")
    assert len(known)
    assert known["rank"].tolist() == ranked.loc[known.index, "rank"].tolist()


def test_chat_goes_through_the_template(root: Path, user_setups: Path) -> None:
    with Store.open(root, "qwen2-jumprelu") as store:
        bench = open_workbench(find_setup("qwen2-jumprelu", user_setups), store)
        messages = [{"role": "user", "content": "Who rules?"}, {"role": "assistant", "content": "A court."}]
        tokens = inspect_text(bench, messages).tokens
    said = "".join(tokens["token"][~tokens["special"]])
    assert said == "Who rules?A court."
    assert "<|im_start|>" in tokens["token"][tokens["special"]].tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the text is empty"),
        ("law " * 300, r"the text has \d+ tokens; .* reads 256: shorten it"),
        ("x" * (MAX_CHARACTERS + 1), "at most 200,000 are inspected: take a part"),
    ],
)
def test_text_that_cannot_be_inspected_is_refused(bench: Workbench, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        inspect_text(bench, text)


# ---- the command ----


@pytest.fixture
def run(root: Path, user_setups: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(user_setups))

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        code = main(["inspect", "gpt2-topk", "--store", str(root), *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def test_command_prints_the_texts_neurons(run: Command, bench: Workbench) -> None:
    code, out, _ = run("--text", TEXT, "--topic", "law", "--top", "4", "--json")
    assert code == 0
    printed = json.loads(out)
    expected = inspect_text(bench, TEXT)
    assert [row["neuron"] for row in printed["neurons"]] == expected.neurons["neuron"].head(4).tolist()
    assert all(row["name"] for row in printed["neurons"])
    assert [row["token"] for row in printed["tokens"]] == expected.tokens["token"].tolist()


def test_command_reads_a_file_and_lists_tokens(run: Command, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEXT, encoding="utf-8")
    code, _, _ = run("--file", tmp_path / "t.txt", "--tokens", "--out", tmp_path / "tokens.csv")
    assert code == 0
    lines = (tmp_path / "tokens.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "token,special,n_active,topic_share,strongest"
    assert len(lines) > 5


def test_command_prints_one_neurons_activation_on_every_token(run: Command, activations: np.ndarray) -> None:
    neuron = int(activations[1:].sum(0).argmax())
    code, out, _ = run("--text", TEXT, "--neuron", neuron, "--json")
    assert code == 0
    shown = [row["activation"] for row in json.loads(out)["tokens"]]
    assert shown == pytest.approx(activations[:, neuron].tolist(), rel=1e-4)
    code, _, err = run("--text", TEXT, "--neuron", "192")
    assert (code, "neuron 192 is out of range" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the text either as --text TEXT or as --file FILE"),
        (("--text", "a", "--file", "b"), "give the text either as"),
        (("--file", "none.txt"), "no file 'none.txt'; name a text file"),
    ],
)
def test_command_refuses_what_is_no_text(run: Command, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err


def test_command_refuses_bytes_that_are_not_utf_8(run: Command, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"caf\xe9")
    code, _, err = run("--file", tmp_path / "t.txt")
    assert (code, "is not UTF-8 (byte 3); save it as UTF-8" in err) == (2, True)
