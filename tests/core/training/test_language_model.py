"""The language-model trainer on a few lines of bundled text."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from core.errors import TrainingConfigError
from core.text.prompts import dialogues, reference_prompts
from core.training.corpus import Document, TextSource, is_held_out
from core.training.language_model import (
    BlockSampler,
    LanguageModelConfig,
    TokenisedCorpus,
    bits_per_byte,
    learning_rate_factor,
    load_config,
    new_model,
    optimisers,
    train_language_model,
    train_tokenizer,
)
from core.training.run import run_training

CONFIG = LanguageModelConfig(
    name="tiny",
    sources=(TextSource(path="text.jsonl.gz", licence="CC0"),),
    vocabulary_size=400,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    context_size=16,
    batch_size=4,
    tokens=16 * 4 * 6,
    warmup_steps=2,
    checkpoint_steps=2,
)


@pytest.fixture(scope="module")
def corpus() -> TokenisedCorpus:
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, 400, n, dtype=np.uint16) for n in rng.integers(20, 60, 30)]
    return TokenisedCorpus(train={"text.jsonl.gz": documents}, held_out={})


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer((prompt.text for prompt in reference_prompts("embedded", 200)), 400)


def test_tokenizer_knows_template_and_roles_as_single_tokens(tokenizer) -> None:
    ids = tokenizer("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[:3]) == ["<|im_start|>", "user", "Ċ"]
    assert tokenizer.convert_ids_to_tokens(ids[-2:]) == ["assistant", "Ċ"]
    assert tokenizer.decode(tokenizer("Ça va, naïve ☃?").input_ids) == "Ça va, naïve ☃?"


def test_learning_rate_warms_up_stays_and_decays_to_zero() -> None:
    config = replace(CONFIG, tokens=16 * 4 * 100, warmup_steps=10, decay_share=0.2)
    factors = [learning_rate_factor(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:80] == [1.0] * 70
    assert factors[90] == pytest.approx(0.5)
    assert factors[100] == 0.0


def test_batches_depend_on_seed_and_step_alone(corpus: TokenisedCorpus) -> None:
    steps = range(3 * 14)  # three passes
    forward = [BlockSampler(corpus, CONFIG).batch(step) for step in steps]
    backward = BlockSampler(corpus, CONFIG)
    assert all(torch.equal(backward.batch(step), forward[step]) for step in reversed(steps))
    assert not torch.equal(BlockSampler(corpus, replace(CONFIG, seed=1)).batch(0), forward[0])


def test_chat_blocks_begin_with_a_conversation(corpus: TokenisedCorpus) -> None:
    firsts = {int(document[0]) for document in corpus.train["text.jsonl.gz"]}
    sampler = BlockSampler(corpus, replace(CONFIG, chat=True))
    assert all(int(row[0]) in firsts for step in range(3) for row in sampler.batch(step))


def test_matrices_of_blocks_go_to_muon_and_nothing_twice(tokenizer) -> None:
    model = new_model(CONFIG, tokenizer)
    groups = {name: o.param_groups[0]["params"] for name, o in optimisers(model, CONFIG).items()}
    assert all(p.ndim == 2 and p is not model.get_input_embeddings().weight for p in groups["muon"])
    ids = [id(p) for group in groups.values() for p in group]
    assert sorted(ids) == sorted({id(p) for p in model.parameters()})


def test_run_that_was_interrupted_ends_with_the_same_weights(corpus, tokenizer, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda f: f)

    def run(folder: Path, stop_after: int | None) -> dict[str, torch.Tensor]:
        def on_step(step: int, _loss: float) -> None:
            if step == stop_after:
                raise KeyboardInterrupt

        model = new_model(CONFIG, tokenizer)
        train_language_model(CONFIG, BlockSampler(corpus, CONFIG), model, folder, on_step)
        return model.state_dict()

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", 3)
    resumed = run(tmp_path / "broken", None)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_bits_per_byte_of_a_uniform_model(tokenizer) -> None:
    model = new_model(CONFIG, tokenizer)
    for parameter in model.parameters():
        parameter.data.zero_()
    document = np.array([*range(10, 40), 0], dtype=np.uint16)
    # 30 tokens of log2(vocabulary) bits each, the end of text not counted, over 93 bytes
    expected = 30 * np.log2(len(tokenizer)) / 93
    assert bits_per_byte(model, [document], 93, 16) == pytest.approx(expected, rel=1e-5)


def test_held_out_documents_are_one_in_a_hundred_and_the_same_passage_stays_together() -> None:
    documents = [Document(f"Passage number {i}. " * 5) for i in range(5_000)]
    share = np.mean([is_held_out(document) for document in documents])
    assert 0.006 < share < 0.014
    for document in documents[:500]:
        question = Document(f"What?\n\n{document.text.upper()}")
        assert is_held_out(question) == is_held_out(document)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("layers = 3", "unknown key 'layers'"),
        ("seed = 1", r"name at least one \[\[language_model.sources\]\]"),
        ("seed = -1", r"\[language_model\] of '.*': seed is a whole number from 0 to \d+, not -1"),
        ('sources = [{path = "a", licence = "b"}]\ntokens = 9', r"tokens \(9\) is at least .*, 8192"),
        ('sources = [{path = "a", licence = "b"}]\nnum_attention_heads = 3', r"hidden_size \(256\) is a multiple of"),
        ('sources = [{path = "a"}]', "entry 1 of sources: the key 'licence' is missing"),
    ],
)
def test_wrong_config_is_refused(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(f'[language_model]\nname = "x"\n{lines}\n')
    with pytest.raises(TrainingConfigError, match=message):
        load_config(path)


def test_shipped_configs_load() -> None:
    base, chat = (load_config(Path("data/configs") / f"demo_{kind}.toml") for kind in ("base", "chat"))
    assert base.tokens >= 15_000_000
    assert chat.start_from == "data/models/demo-base"


@pytest.mark.slow
def test_train_command_makes_base_then_chat(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda f: f)
    rows = [{"text": prompt.text} for prompt in reference_prompts("embedded", 300)]
    chats = [{"messages": dialogue["messages"]} for dialogue in dialogues()[:300]]
    for name, lines in (("text", rows), ("chat", chats)):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    sizes = "vocabulary_size = 400\nhidden_size = 16\nintermediate_size = 32\nnum_hidden_layers = 2\n"
    sizes += "num_attention_heads = 2\ncontext_size = 16\nbatch_size = 4\ntokens = 640\n"
    for name, source, more in (
        ("base", "text", sizes),
        ("chat", "chat", f'{sizes}chat = true\nstart_from = "{tmp_path}/base"\n'),
    ):
        source_table = f'[[language_model.sources]]\npath = "{source}.jsonl.gz"\nlicence = "CC0"\n'
        config = tmp_path / f"{name}.toml"
        config.write_text(f'[language_model]\nname = "{name}"\n{more}{source_table}')
        folder = run_training(config, tmp_path, tmp_path / "work", tmp_path / name, lambda stage, share: None)
        card = (folder / "README.md").read_text()
        assert "bits per byte" in card
        assert card.count("> **") == 10
        assert AutoTokenizer.from_pretrained(folder).chat_template
