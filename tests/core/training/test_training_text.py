"""From sources to encoded texts: the split, shares, the cache, deduplication, hub rows, wrong sources."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest

from core.catalog import Setup
from core.errors import (
    CheckpointError,
    ConversationError,
    EmptyDatasetError,
    HubError,
    MissingFileError,
    TrainingConfigError,
)
from core.models.language_model import LanguageModel
from core.models.loading import load_language_model
from core.training.corpus import Document, TextSource, is_held_out, read_documents
from core.training.encoded_texts import CONTENT, MARKER
from core.training.hub_text import document_of, read_hub_documents
from core.training.training_text import chosen_documents, encoded_texts, evaluation_config, token_batches
from tests.core.training.conftest import Configure


def source(path: str, **more: float | int) -> TextSource:
    return TextSource(path=path, licence="CC0", **more)


def texts_of(configure: Configure, folder: Path, held_out: bool, **settings: object) -> list[str]:
    return [d.text for d in chosen_documents(configure(**settings), folder, held_out=held_out)]


def test_both_sides_together_are_all_documents(configure: Configure, small_corpus: Path) -> None:
    train, held_out = (texts_of(configure, small_corpus, side) for side in (False, True))
    everything = [d.text for d in read_documents(small_corpus / "texts.jsonl")]
    assert sorted(train + held_out) == sorted(everything)
    assert 0 < len(held_out) < 0.05 * len(train)


def test_share_takes_that_part_of_each_source(configure: Configure, small_corpus: Path) -> None:
    sources = (source("texts.jsonl", share=0.1), source("chats.jsonl", share=0.05))
    taken = texts_of(configure, small_corpus, False, sources=sources)
    chats = sum(":" in text.split("\n")[0][:5] for text in taken)
    assert 80 < len(taken) - chats < 160
    assert 30 < chats < 100


def test_held_out_side_keeps_the_mixture_at_the_largest_share(configure: Configure, small_corpus: Path) -> None:
    few = texts_of(configure, small_corpus, True, sources=(source("texts.jsonl", share=0.01),))
    everything = [d.text for d in read_documents(small_corpus / "texts.jsonl") if is_held_out(d)]
    assert few == everything


def test_held_out_documents_are_one_in_a_hundred_and_the_same_passage_stays_together() -> None:
    documents = [Document(f"Passage number {i}. " * 5) for i in range(5_000)]
    share = np.mean([is_held_out(document) for document in documents])
    assert 0.006 < share < 0.014
    for document in documents[:500]:
        question = Document(f"What?\n\n{document.text.upper()}")
        assert is_held_out(question) == is_held_out(document)


def test_limit_reads_no_further(configure: Configure, small_corpus: Path) -> None:
    limited = (source("texts.jsonl", limit=10),)
    sides = [texts_of(configure, small_corpus, side, sources=limited) for side in (False, True)]
    assert sum(map(len, sides)) == 10


def write_chats(path: Path, texts: list[str]) -> None:
    chats = ({"messages": [{"role": "user", "content": text}]} for text in texts)
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")


def test_conversations_are_deduplicated(configure: Configure, tmp_path: Path) -> None:
    write_chats(tmp_path / "c.jsonl", [f"{i % 40} words that come again" for i in range(120)])
    sources = (source("c.jsonl"),)
    for n_gram, expected in ((20, 40), (4, 1), (0, 120)):
        settings = {"method": "fast", "sources": sources, "n_gram": n_gram}
        sides = [texts_of(configure, tmp_path, side, **settings) for side in (False, True)]
        assert sum(map(len, sides)) == expected
    assert sum(len(texts_of(configure, tmp_path, side, sources=sources)) for side in (False, True)) == 120


def test_dropped_conversations_are_counted_and_told(
    configure: Configure, chat_model: LanguageModel, tmp_path: Path
) -> None:
    write_chats(tmp_path / "c.jsonl", [f"{i % 40} words that come again" for i in range(120)])
    config = configure(method="fast", sources=(source("c.jsonl"),), n_gram=20)
    for _ in range(2):  # encoded, then from the cache
        batches = token_batches(config, chat_model, tmp_path, tmp_path / "cache")
        assert batches.duplicates == (80, 120)
        assert batches.describe().endswith("; deduplication dropped 80 of 120 conversations")
    config = configure(method="fast", sources=config.sources, n_gram=0)
    batches = token_batches(config, chat_model, tmp_path, tmp_path / "cache")
    assert batches.duplicates == (0, 0)
    assert "deduplication" not in batches.describe()


def test_documents_end_with_a_special_token(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, tmp_path: Path
) -> None:
    texts = encoded_texts(configure(), chat_model, small_corpus, tmp_path, held_out=True)
    ends = texts.starts[1:] - 1
    assert (texts.ids[ends] == chat_model.tokenizer.eos_token_id).all()
    assert (texts.kinds[ends] == MARKER).all()
    assert (np.delete(texts.kinds, ends) == CONTENT).all()


def folders_in(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_encoded_texts_are_read_from_the_cache(configure: Configure, chat_model: LanguageModel, tmp_path: Path) -> None:
    write_chats(tmp_path / "c.jsonl", [f"number {i}" for i in range(50)])
    config = configure(method="btf", sources=(source("c.jsonl"),))
    cache = tmp_path / "cache"
    first = encoded_texts(config, chat_model, tmp_path, cache, held_out=False)
    (folder,) = folders_in(cache)
    written = (folder / "ids.npy").stat().st_mtime_ns
    again = encoded_texts(config, chat_model, tmp_path, cache, held_out=False)
    assert np.array_equal(first.ids, again.ids)
    assert (folder / "ids.npy").stat().st_mtime_ns == written
    # nothing that the texts depend on is shared: another method, file or n-gram length
    encoded_texts(configure(method="fast", sources=config.sources), chat_model, tmp_path, cache, held_out=False)
    assert len(folders_in(cache)) == 2
    write_chats(tmp_path / "c.jsonl", [f"number {i}" for i in range(60)])
    assert len(encoded_texts(config, chat_model, tmp_path, cache, held_out=False)) > len(first)
    encoded_texts(
        configure(method="btf", sources=config.sources, n_gram=5), chat_model, tmp_path, cache, held_out=False
    )
    assert len(folders_in(cache)) == 4


def test_evaluation_is_on_conversations_where_they_are_named(configure: Configure) -> None:
    chats = (source("chats.jsonl"),)
    judged = evaluation_config(configure(method="btp", evaluation_sources=chats))
    assert (judged.method, judged.sources, judged.keep_special) == ("fast", chats, True)
    plain = configure(method="btp")
    assert evaluation_config(plain) == plain
    every_position = configure(method="btp", evaluation_skip_first=True)
    assert not every_position.skip_first
    assert evaluation_config(every_position).skip_first


def test_source_that_is_whole_is_held_out_whole(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, tmp_path: Path
) -> None:
    config = configure(method="fast", sources=(replace(source("chats.jsonl"), whole=True),), n_gram=0)
    held_out = encoded_texts(config, chat_model, small_corpus, tmp_path, held_out=True)
    assert len(held_out) == len(list(read_documents(small_corpus / "chats.jsonl")))
    with pytest.raises(EmptyDatasetError, match="no training text"):
        encoded_texts(config, chat_model, small_corpus, tmp_path, held_out=False)


def test_plain_documents_may_go_through_the_template(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, tmp_path: Path
) -> None:
    plain, chats = (
        encoded_texts(configure(in_template=wrapped), chat_model, small_corpus, tmp_path, held_out=True)
        for wrapped in (False, True)
    )
    assert len(plain) == len(chats)
    first = chats.ids[: chats.starts[1]].tolist()
    text = chat_model.tokenizer.decode(plain.ids[: plain.starts[1] - 1].tolist())
    assert chat_model.tokenizer.decode(first) == chat_model.tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False
    )


# ---- wrong sources ----


def test_missing_text_names_the_setting(configure: Configure, chat_model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file '.*texts.jsonl'; set STEERSCOPE_TEXT"):
        token_batches(configure(), chat_model, tmp_path, tmp_path / "cache")


def test_source_below_the_working_folder(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_corpus)
    config = configure(sources=(source("./texts.jsonl"),))
    assert token_batches(config, chat_model, tmp_path / "elsewhere", tmp_path / "cache").batches_in_first_pass > 0


def test_empty_dataset_is_refused(configure: Configure, chat_model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text("\n\n", encoding="utf-8")
    with pytest.raises(EmptyDatasetError, match=r"nothing to train on: no training text in texts.jsonl; name larger"):
        token_batches(configure(), chat_model, tmp_path, tmp_path / "cache")


def test_full_disk_while_texts_are_encoded_is_named(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(CheckpointError, match=r"No space left.*free space and run the same command again"):
        token_batches(configure(), chat_model, small_corpus, tmp_path / "cache")


def test_plain_text_is_no_conversation(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, tmp_path: Path
) -> None:
    config = configure(method="btf", sources=(source("texts.jsonl"),))
    with pytest.raises(ConversationError, match="plain text trains with method 'btp'"):
        token_batches(config, chat_model, small_corpus, tmp_path / "cache")


def test_blocks_longer_than_the_model_reads_are_refused(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingConfigError, match=r"context_size may be at most what .* reads, 256; it is 512"):
        token_batches(configure(context_size=512), chat_model, small_corpus, tmp_path / "cache")


# ---- hub ----


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversation": [{"role": "user", "content": "a", "turn": 0}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ],
)
def test_hub_rows_of_any_form_are_conversations(row: dict[str, object]) -> None:
    document = document_of(row, "row 1")
    assert document.text == "a\nb"
    assert document.messages == ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


def test_hub_row_of_plain_text() -> None:
    assert document_of({"text": "abc", "meta": {}}, "row 1").messages == ()


def test_hub_row_of_neither_is_named() -> None:
    with pytest.raises(ConversationError, match="row 3 of x/y has neither 'text' nor any of messages"):
        document_of({"prompt": "abc"}, "row 3 of x/y")


def test_hub_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, **_: object) -> None:
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(HubError, match=r"cannot read dataset 'a/b' \(Couldn't reach .*or name a local file as source"):
        next(read_hub_documents("hub:a/b"))


def test_hub_rows_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"t{i}"} for i in range(30)]
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, **_: datasets.Dataset.from_list(rows).to_iterable_dataset()
    )
    texts = [d.text for d in read_hub_documents("hub:a/b")]
    assert sorted(texts) == sorted(row["text"] for row in rows)
    assert texts == [d.text for d in read_hub_documents("hub:a/b")]  # the same order for every job


def test_fast_runs_plain_documents_alone_behind_the_first_token(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, tmp_path: Path
) -> None:
    sources = (source("chats.jsonl"), source("texts.jsonl"))
    texts = encoded_texts(configure(method="fast", sources=sources), chat_model, small_corpus, tmp_path, held_out=True)
    chats, documents = (
        [d for d in read_documents(small_corpus / name) if is_held_out(d)] for name in ("chats.jsonl", "texts.jsonl")
    )
    assert len(texts) == len(chats) + len(documents) > len(documents) > 0
    for number, document in enumerate(documents, start=len(chats)):
        span = slice(texts.starts[number], texts.starts[number + 1])
        ids, kinds = texts.ids[span], texts.kinds[span]
        assert ids[0] == chat_model.first_token_id
        assert (kinds[0], set(kinds[1:])) == (MARKER, {CONTENT})
        assert chat_model.tokenizer.decode(ids[1:]) == document.text


def test_first_token_of_the_setup_stands_before_documents(
    configure: Configure, qwen2_folder: Path, small_corpus: Path, tmp_path: Path
) -> None:
    setup = Setup(name="x", model=str(qwen2_folder), sae="none", device="cpu", first_token="<|im_start|>")
    model = load_language_model(setup)
    settings = {"method": "fast", "sources": (source("texts.jsonl"),), "first_token": "<|im_start|>"}
    texts = encoded_texts(configure(**settings), model, small_corpus, tmp_path, held_out=True)
    own = model.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert own == model.first_token_id
    assert set(texts.ids[texts.starts[:-1]]) == {own}
    assert model.tokenise("a").ids[0] == own
