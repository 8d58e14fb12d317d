"""Neurons by template token: positions by hand, means against a dialogue-by-dialogue reference."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from core.errors import ChatSetupError
from core.evaluation.experiments import ExperimentOptions
from core.evaluation.special import N_TOP, as_printed, run, strongest_neurons, template_tokens
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder
from core.models.tokens import TokenisedPrompt
from core.steering.workbench import Workbench

CHATS = [
    [{"role": "user", "content": "Name a fish."}, {"role": "assistant", "content": "A trout."}],
    [
        {"role": "user", "content": "user user <|im_start|> says the assistant"},
        {"role": "assistant", "content": "user"},
    ],
    [
        {"role": "system", "content": "You count."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two, then three and four."},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "Five."},
    ],
]
# of the template's kinds, in the order in which they stand in a conversation; the tiny tokenizer knows the role words
TOKENS = ["<|im_start|>", "system", "<|im_end|>", "user", "assistant"]


def said(model: LanguageModel, messages: list[dict[str, str]]) -> dict[str, list[str]]:
    """What stands at the positions found, each with the token before it."""
    prompt = model.tokenise_chat(messages)
    found = template_tokens(model.tokenizer, prompt)
    return {
        token: [model.tokenizer.decode(prompt.ids[max(0, at - 1) : at + 1]) for at in found[token]] for token in found
    }


def test_template_tokens_are_found_by_position(qwen2: LanguageModel) -> None:
    prompt = qwen2.tokenise_chat(CHATS[1])
    found = template_tokens(qwen2.tokenizer, prompt)
    assert list(found) == TOKENS
    # the template adds a system turn: three of each mark, one of each role; what the user writes is none of them
    assert {token: len(places) for token, places in found.items()} == dict(zip(TOKENS, (3, 1, 3, 1, 1), strict=True))
    start, system, end, user, assistant = (found[token] for token in TOKENS)
    assert [system[0], user[0], assistant[0]] == [at + 1 for at in start]
    assert all(prompt.special[at] for places in found.values() for at in places)
    assert all(a < b for a, b in zip(start, end, strict=True))


def test_template_tokens_of_several_turns_are_all_found(qwen2: LanguageModel) -> None:
    words = said(qwen2, CHATS[2])
    assert words["user"] == ["<|im_start|>user"] * 2
    assert words["assistant"] == ["<|im_start|>assistant"] * 2
    assert words["system"] == ["<|im_start|>system"]
    assert len(words["<|im_start|>"]) == len(words["<|im_end|>"]) == 5


class _Words:
    """A tokenizer of words: what a template says, token by token."""

    def __init__(self, words: list[str], added: set[str]) -> None:
        self.words = words
        special = type("Added", (), {"special": True})()
        self.added_tokens_decoder = {i: special for i, word in enumerate(words) if word in added}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids)


@pytest.mark.parametrize(
    ("words", "added", "expected"),
    [
        # Llama 3: marks around the role, line breaks and a dated system prompt behind them
        (
            ["<|bot|>", "<|sh|>", "system", "<|eh|>", "\n\n", "Cutting", " Knowledge", "<|eot|>", "<|sh|>", "us", "er"],
            {"<|bot|>", "<|sh|>", "<|eh|>", "<|eot|>"},
            {"<|bot|>": [0], "<|sh|>": [1, 8], "system": [2], "<|eh|>": [3], "<|eot|>": [7], "user": [9, 10]},
        ),
        # Gemma: another word for the assistant, its line break in the same token
        (["<sot>", "model\n", "<eot>", "\n"], {"<sot>", "<eot>"}, {"<sot>": [0], "model": [1], "<eot>": [2]}),
        # a sentence is no role, whatever its spaces are made of
        (["<sot>", "Be", " ", "brief", "<eot>"], {"<sot>", "<eot>"}, {"<sot>": [0], "<eot>": [4]}),
    ],
)
def test_template_tokens_of_other_templates(words: list[str], added: set[str], expected: dict[str, list[int]]) -> None:

    prompt = TokenisedPrompt(list(range(len(words))), [True] * len(words))
    assert template_tokens(_Words(words, added), prompt) == expected


def reference(model: LanguageModel, sae: SparseAutoencoder, first: int = 0) -> dict[str, np.ndarray]:
    """Each dialogue on its own, token by token: [dialogue, d_sae] of largest activations, by template token."""
    largest: dict[str, list[np.ndarray]] = {token: [] for token in TOKENS}
    for messages in CHATS:
        prompt = model.tokenise_chat(messages)
        x = model.activations(model.pad([prompt]), sae.hook_name)
        a = sae.activate(sae.pre_activations(x))[0].numpy().astype(np.float64)
        for token, places in template_tokens(model.tokenizer, prompt).items():
            best = np.zeros(sae.d_sae)
            for at in places:
                best = np.maximum(best, a[at] if at >= first else 0.0)
            largest[token].append(best)
    return {token: np.stack(rows) for token, rows in largest.items()}


@pytest.mark.parametrize("architecture", ["jumprelu", "topk", "standard", "gated"])
def test_means_equal_those_of_dialogues_run_alone(
    qwen2: LanguageModel, saes: Mapping[str, SparseAutoencoder], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = saes[f"qwen2-{architecture}"]
    monkeypatch.setattr("core.evaluation.special.BATCH_TOKENS", 130)  # several batches, and padding within one
    shares: list[float] = []
    table = strongest_neurons(qwen2, sae, CHATS, lambda stage, share: shares.append(share))
    assert len(shares) > 1
    assert shares[-1] == 1.0
    assert list(table["token"].drop_duplicates()) == TOKENS
    for token, largest in reference(qwen2, sae).items():
        mine = table[table["token"] == token]
        means = largest.mean(axis=0)
        assert len(mine) == min(N_TOP, (means > 0).sum())
        assert mine["rank"].tolist() == list(range(1, len(mine) + 1))
        assert mine["mean_max"].to_numpy() == pytest.approx(np.sort(means)[::-1][: len(mine)], rel=1e-5)
        assert mine["mean_max"].to_numpy() == pytest.approx(means[mine["neuron"]], rel=1e-5)
        assert mine["share_active"].tolist() == pytest.approx((largest > 0).mean(axis=0)[mine["neuron"]].tolist())
        assert (mine["dialogues"] == len(CHATS)).all()


def test_first_position_is_left_out_where_the_sae_was_not_trained_on_it(
    qwen2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    sae = replace(saes["qwen2-topk"], skip_first=True)
    table = strongest_neurons(qwen2, sae, CHATS)
    assert list(table["token"].drop_duplicates()) == TOKENS  # in their order in a conversation, all the same
    for token, largest in reference(qwen2, sae, first=1).items():
        mine = table[table["token"] == token]
        means = largest.mean(axis=0)
        assert mine["mean_max"].to_numpy() == pytest.approx(np.sort(means)[::-1][: len(mine)], rel=1e-5)


def test_mean_is_over_dialogues_that_have_the_token(
    qwen2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    greeting = [{"role": "user", "content": "Hello."}]  # no assistant
    table = strongest_neurons(qwen2, saes["qwen2-jumprelu"], [greeting, CHATS[0], CHATS[0]])
    dialogues = table.groupby("token")["dialogues"].first()
    assert (dialogues["assistant"], dialogues["user"]) == (2, 3)
    alone = strongest_neurons(qwen2, saes["qwen2-jumprelu"], [CHATS[0]])
    columns = ["neuron", "mean_max"]
    mine, expected = (t.loc[t["token"] == "assistant", columns].to_numpy() for t in (table, alone))
    assert mine == pytest.approx(expected, rel=1e-5)


def test_printed_form_has_five_neurons_as_the_paper_prints_them() -> None:
    values = [39.87, 5.418, 4.19, 4.189, 4.023, 1.0]
    neurons = [13794, 20022, 7579, 3817, 26689, 7]
    table = pd.DataFrame(
        {"token": "<|im_start|>", "rank": range(1, 7), "neuron": neurons, "mean_max": values, "dialogues": 1000}
    )
    (line,) = as_printed(table).to_dict("records")
    assert line["top_5"] == "13794:39.87 20022:5.418 7579:4.190 3817:4.189 26689:4.023"
    assert line["dialogues"] == 1000


class _Bench(Workbench):
    """A workbench without a store."""

    def __init__(self, model: LanguageModel, sae: SparseAutoencoder) -> None:
        self.model, self.sae = model, sae


def test_experiment_runs_over_a_spread_of_the_bundled_dialogues(
    qwen2: LanguageModel, saes: Mapping[str, SparseAutoencoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.evaluation.special.N_DIALOGUES", 20)
    tables = run(_Bench(qwen2, saes["qwen2-jumprelu"]), ExperimentOptions())
    assert tables["special-top"]["token"].tolist() == TOKENS
    assert (tables["special"]["dialogues"] == 20).all()
    assert tables["special"].groupby("token").size().max() <= N_TOP
    assert torch.is_inference_mode_enabled() is False


def test_base_setup_is_refused_with_the_names_of_chat_setups(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    with pytest.raises(ChatSetupError, match=r"'special' needs a chat template.*chat setups are smollm2, "):
        run(_Bench(gpt2, saes["gpt2-topk"]), ExperimentOptions())
