"""Reconstruction of conversations: errors by kind of token against transformers, sae_lens and numpy, chat by chat."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sae_lens import SAE
from transformers import AutoModelForCausalLM

from core.build.pipeline import build
from core.catalog import find_setup
from core.errors import EmptyDatasetError, MissingFileError, TrainingConfigError
from core.evaluation.experiments import ALL_TOPICS, ExperimentOptions
from core.evaluation.layer import COLUMNS
from core.evaluation.reconstruction import KINDS, run
from core.steering.settings import SteeringSettings
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.text.prompts import bundled_topics
from tests.fixtures.autoencoders import HOOK_LAYER

SETUP = "qwen2-topk"
CHATS = (
    ("What is a heart?", "A muscle."),
    ("user <|im_start|> said user", "The assistant did not."),
    ("Count.", "One, two, three and four."),
)
TOPICS = tuple(list(bundled_topics().values())[:2])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Iterator[Workbench]:
    root, setup = tmp_path_factory.mktemp("reconstruction"), find_setup(SETUP, user_setups)
    build(setup, root)
    with Store.open(root, SETUP) as store:
        yield open_workbench(setup, store)


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dialogues") / "chats.jsonl"
    messages = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in CHATS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in messages), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tables(bench: Workbench, dialogues: Path) -> dict[str, pd.DataFrame]:
    return run(bench, ExperimentOptions(topics=TOPICS, dialogues=dialogues))


class Chat:
    """One conversation run alone by transformers, with each token's kind read off the rendered template."""

    def __init__(self, bench: Workbench, model: torch.nn.Module, question: str, answer: str) -> None:
        tokenizer = bench.model.tokenizer
        ids, kinds = [], []
        for role, content in (("system", "You are a helpful assistant."), ("user", question), ("assistant", answer)):
            ids.append(tokenizer.convert_tokens_to_ids("<|im_start|>"))
            kinds.append("marker")
            for text, kind in (
                (role, "role"),
                ("\n", "template"),
                (content, "template" if role == "system" else "content"),
            ):
                piece = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
                ids += piece
                kinds += [kind] * len(piece)
            ids.append(tokenizer.convert_tokens_to_ids("<|im_end|>"))
            kinds.append("marker")
            ids += (line_break := tokenizer("\n", add_special_tokens=False).input_ids)
            kinds += ["template"] * len(line_break)
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        self.x, self.kinds = hidden[HOOK_LAYER + 1][0].numpy(), np.array(kinds)


@pytest.fixture(scope="module")
def chats(bench: Workbench, qwen2_folder: Path) -> list[Chat]:
    model = AutoModelForCausalLM.from_pretrained(qwen2_folder).eval()
    return [Chat(bench, model, question, answer) for question, answer in CHATS]


MASKS = {
    "all": lambda kinds: kinds != "",
    "special": lambda kinds: (kinds == "marker") | (kinds == "role"),
    "markers": lambda kinds: kinds == "marker",
    "template": lambda kinds: kinds != "content",
    "first": lambda kinds: np.arange(len(kinds)) == 0,
}


def test_errors_by_kind_equal_a_computation_by_hand(
    tables: dict[str, pd.DataFrame], chats: list[Chat], sae_folders: dict[str, Path]
) -> None:
    sae = SAE.load_from_disk(sae_folders[SETUP]).eval()
    table = tables["reconstruction"].set_index("kind")
    assert list(table.index) == list(KINDS.values()) == list(MASKS)
    with torch.no_grad():
        errors = [((sae(torch.from_numpy(c.x)).numpy() - c.x) ** 2).mean(1) for c in chats]
    for kind, mask in MASKS.items():
        own = [error[mask(chat.kinds)] for error, chat in zip(errors, chats, strict=True)]
        row = table.loc[kind]
        assert row["mse"] == pytest.approx(np.mean([e.mean() for e in own]), rel=1e-4)
        assert row["mse_pooled"] == pytest.approx(np.concatenate(own).mean(), rel=1e-4)
        assert row["mse_log2"] == pytest.approx(np.log2(row["mse"]))
        assert row["tokens"] == sum(len(e) for e in own)
    figures = tables["reconstruction-figures"].iloc[0]
    assert (figures["sequences"], figures["tokens"]) == (3, sum(len(c.kinds) for c in chats))


def test_edited_errors_equal_a_computation_by_hand(
    bench: Workbench, tables: dict[str, pd.DataFrame], chats: list[Chat], sae_folders: dict[str, Path]
) -> None:
    """Swap and clamp, TopK: by numpy from sae_lens's pre-activations."""
    sae = SAE.load_from_disk(sae_folders[SETUP]).eval()
    x = np.concatenate([c.x[(c.kinds == "marker") | (c.kinds == "role")] for c in chats])
    w_enc, w_dec, b_enc, b_dec = (getattr(sae, n).detach().numpy() for n in ("W_enc", "W_dec", "b_enc", "b_dec"))
    gamma = (x - b_dec * sae.cfg.apply_b_dec_to_input) @ w_enc + b_enc
    k, settings = sae.cfg.k, SteeringSettings()

    def kept(order: np.ndarray, values: np.ndarray) -> np.ndarray:
        a = np.zeros_like(values)
        best = np.argsort(-order, axis=1)[:, :k]
        np.put_along_axis(a, best, np.take_along_axis(values, best, 1), 1)
        return np.where(order > 0, a, 0.0)

    errors = []
    for topic in TOPICS:
        score = bench.score(topic).scores.steering_vector()
        sums = {"sae": kept(gamma, gamma), "swap": kept(gamma * score, gamma)}
        clamped = sums["sae"].copy()
        best = np.argsort(-score, kind="stable")[: settings.n]
        clamped[:, best] = settings.multiplier * bench.store.reference_max()[best]
        sums["clamp"] = clamped
        errors.append({name: ((a @ w_dec + b_dec - x) ** 2).mean() for name, a in sums.items()})
    table = tables["reconstruction-edits"].set_index(["topic", "edit", "kind"])["mse"]
    for name in ("sae", "swap", "clamp"):
        for topic, own in zip(TOPICS, errors, strict=True):
            assert table[topic.name, name, "special"] == pytest.approx(own[name], rel=1e-3)
        assert table[ALL_TOPICS, name, "special"] == pytest.approx(np.mean([e[name] for e in errors]), rel=1e-3)


def test_every_edit_is_compared_with_the_sae(tables: dict[str, pd.DataFrame]) -> None:
    table = tables["reconstruction-edits"]
    assert set(table["edit"]) == set(COLUMNS)
    assert set(table["kind"]) == {"ordinary", "special", "other template"}
    assert (table.loc[table["edit"] == "sae", "times_sae"] == 1).all()
    clamp = table[(table["edit"] == "clamp") & (table["topic"] == ALL_TOPICS)]
    assert (clamp["times_sae"] > 1).all()
    assert np.allclose(table["mse_log2"], np.log2(table["mse"]))


def test_bundled_dialogues_are_the_default(bench: Workbench, monkeypatch: pytest.MonkeyPatch, dialogues: Path) -> None:
    (dialogues.parent / "dialogues.jsonl").write_bytes(dialogues.read_bytes())
    monkeypatch.setattr("core.evaluation.reconstruction.DATA", dialogues.parent)
    assert run(bench, ExperimentOptions(topics=TOPICS[:1]))["reconstruction-figures"]["sequences"].item() == 3


def test_wrong_conversations_are_named(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        run(bench, ExperimentOptions(topics=TOPICS[:1], dialogues=tmp_path / "none.jsonl"))
    (empty := tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(EmptyDatasetError, match="no conversation to reconstruct"):
        run(bench, ExperimentOptions(topics=TOPICS[:1], dialogues=empty))


def test_model_without_a_template_is_told(bench: Workbench, dialogues: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.model.tokenizer, "chat_template", None)
    with pytest.raises(TrainingConfigError, match="has no chat template"):
        run(bench, replace(ExperimentOptions(topics=TOPICS[:1]), dialogues=dialogues))
