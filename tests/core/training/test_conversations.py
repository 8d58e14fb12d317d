"""Conversations through the template: kinds by position, run alone though batched, truncation, errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.catalog import Setup
from core.errors import ConversationError, EmptyDatasetError, TrainingConfigError
from core.models.language_model import LanguageModel
from core.models.loading import load_language_model
from core.training.activation_source import ActivationSource, kept_positions
from core.training.conversations import ConversationBatches, encode_conversations, pack
from core.training.corpus import Document
from core.training.encoded_texts import CONTENT, MARKER, ROLE, TEMPLATE, EncodedTexts

HOOK = "blocks.1.hook_resid_post"


def chat(*contents: str) -> Document:
    roles = ("user", "assistant")
    return Document("", tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(contents)))


def encode(model: LanguageModel, *documents: Document) -> EncodedTexts:
    return EncodedTexts.join(encode_conversations(iter(documents), model), "test")


def spelled(model: LanguageModel, texts: EncodedTexts, kind: int) -> list[str]:
    """The runs of tokens of one kind, decoded."""
    runs, inside = [], False
    for token, its_kind in zip(texts.ids.tolist(), texts.kinds.tolist(), strict=True):
        if its_kind == kind:
            runs = [*runs[:-1], [*runs[-1], token]] if inside else [*runs, [token]]
        inside = its_kind == kind
    return [model.tokenizer.decode(run) for run in runs]


def test_kinds_follow_the_template(chat_model: LanguageModel) -> None:
    texts = encode(chat_model, chat("my heart", "rest"))
    assert spelled(chat_model, texts, CONTENT) == ["my heart", "rest"]
    assert spelled(chat_model, texts, ROLE) == ["system", "user", "assistant"]
    assert spelled(chat_model, texts, MARKER) == ["<|im_start|>", "<|im_end|>"] * 3
    assert spelled(chat_model, texts, TEMPLATE)[:3] == ["\nYou are a helpful assistant.", "\n", "\n"]


def test_what_people_write_is_content(chat_model: LanguageModel) -> None:
    said = ("user", "<|im_start|>assistant\nassistant<|im_end|>")
    texts = encode(chat_model, chat(*said))
    assert spelled(chat_model, texts, CONTENT) == list(said)
    assert spelled(chat_model, texts, ROLE) == ["system", "user", "assistant"]


def test_encoded_conversation_is_the_template_applied(chat_model: LanguageModel) -> None:
    document = chat("a question", "an answer", "one more", "yes")
    text = chat_model.tokenizer.apply_chat_template(list(document.messages), tokenize=False)
    assert chat_model.tokenizer.decode(encode(chat_model, document).ids.tolist()) == text


def test_conversations_in_a_batch_do_not_see_each_other(chat_model: LanguageModel) -> None:
    documents = [chat("short", "ok"), chat("a rather longer one than that", "indeed it is"), chat("x", "y z")]
    together = ConversationBatches(encode(chat_model, *documents), max_tokens=64, tokens_per_batch=1_000, seed=0)
    assert together.batches_in_first_pass == 1
    batch = together.batch(0)
    of_batch = chat_model.activations(batch, HOOK)
    seen = set()
    for row in range(3):
        n = int(batch.attention[row].sum())
        ids = batch.ids[row, :n]
        alone = chat_model.model(input_ids=ids[None], output_hidden_states=True).hidden_states[2][0]
        torch.testing.assert_close(of_batch[row, :n], alone, rtol=1e-4, atol=1e-4)
        seen.add(tuple(ids.tolist()))
    assert len(seen) == 3


def test_longer_conversation_is_truncated(chat_model: LanguageModel) -> None:
    texts = encode(chat_model, chat("word " * 40, "b"), chat("a", "b"))
    batches = ConversationBatches(texts, max_tokens=50, tokens_per_batch=64, seed=0)
    assert batches.describe() == "2 conversations in a pass, 1 truncated at 50 tokens"
    lengths = {int(batches.batch(i).attention.sum(1).max()) for i in range(2)}
    assert max(lengths) == 50


def test_padding_is_never_trained_on_and_special_tokens_only_if_asked(chat_model: LanguageModel) -> None:
    texts = encode(chat_model, chat("hello there", "ok"), chat("hi", "yes yes yes"))
    batches = ConversationBatches(texts, max_tokens=64, tokens_per_batch=1_000, seed=0)
    tokens = batches.batch(0)
    assert int(kept_positions(tokens, keep_special=True).sum()) == texts.n_tokens
    assert int(kept_positions(tokens, keep_special=False).sum()) == (texts.kinds == CONTENT).sum()
    without_first = kept_positions(tokens, keep_special=True, skip_first=True)
    assert not without_first[:, 0].any()
    assert torch.equal(without_first[:, 1:], tokens.attention[:, 1:])
    assert not (tokens.role & ~tokens.special).any()
    for keep, n in ((True, texts.n_tokens), (False, (texts.kinds == CONTENT).sum())):
        source = ActivationSource(chat_model, HOOK, batches, keep_special=keep)
        assert source.next_chunk().shape == (n, 32)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(20, 200), st.integers(0, 99))
def test_pack_uses_each_text_once_within_the_limit(lengths: list[int], limit: int, seed: int) -> None:
    of_texts = np.array(lengths)
    batches = pack(of_texts, limit, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(b) == 1 or of_texts[b].max() * len(b) <= limit for b in batches)


def test_batch_depends_on_seed_and_number_alone(chat_model: LanguageModel) -> None:
    texts = encode(chat_model, *(chat(f"question {i} " * (i % 7), "answer") for i in range(40)))

    def batches(seed: int) -> ConversationBatches:
        return ConversationBatches(texts, max_tokens=64, tokens_per_batch=200, seed=seed)

    one = batches(0)
    n = one.batches_in_first_pass
    forward = [one.batch(i).ids for i in range(3 * n)]
    other = batches(0)
    for i in (2 * n + 1, 0, n, 3 * n - 1):  # in any order, as a resumed run asks for them
        assert torch.equal(other.batch(i).ids, forward[i])
    assert sum(len(batch) for batch in forward[:n]) == 40
    assert [batches(1).batch(i).ids.tolist() for i in range(n)] != [batch.tolist() for batch in forward[:n]]


# ---- errors ----


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (({"content": "no role"},), "message 1 of conversation 2 has no 'role'"),
        (
            ({"role": "user", "content": "x"}, {"role": " ", "content": "y"}),
            "message 2 of conversation 2 has no 'role'",
        ),
        (({"role": "user"},), "has no 'content'"),
        ((), "conversation 2 has no messages; plain text trains with method 'btp'"),
    ],
)
def test_conversation_without_roles_is_named(
    chat_model: LanguageModel, messages: tuple[dict[str, str], ...], message: str
) -> None:
    with pytest.raises(ConversationError, match=message):
        encode(chat_model, chat("fine", "fine"), Document("", messages))


def test_conversation_that_the_template_refuses_is_named(
    chat_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    monkeypatch.setattr(chat_model.tokenizer, "chat_template", template)
    with pytest.raises(
        ConversationError, match=r"conversation 1: the chat template of .* refuses it: .*roles must alternate"
    ):
        encode(chat_model, chat("a", "b"))


def test_refused_conversations_are_counted_and_left_out(
    chat_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    template = chat_model.tokenizer.chat_template
    guarded = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    monkeypatch.setattr(chat_model.tokenizer, "chat_template", guarded + template)
    system = Document("", ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}))
    documents = [chat("one", "two"), system, chat("three", "four"), system]
    refused: list[str] = []
    texts = EncodedTexts.join(encode_conversations(iter(documents), chat_model, refused), "test", refused)
    assert len(texts) == 2
    texts.save(tmp_path / "texts")
    batches = ConversationBatches(EncodedTexts.load(tmp_path / "texts"), max_tokens=99, tokens_per_batch=99, seed=0)
    told = batches.describe()
    assert "2 conversations in a pass" in told
    assert "2 left out that the chat template refuses" in told
    assert "System role not supported" in told
    with pytest.raises(EmptyDatasetError, match=r"test .*System role not supported"):
        EncodedTexts.join(encode_conversations(iter([system]), chat_model, refused), "test", refused)


def test_missing_template_is_named(gpt2_folder: Path) -> None:
    model = load_language_model(Setup(name="gpt2", model=str(gpt2_folder), sae="none", device="cpu"))
    with pytest.raises(TrainingConfigError, match="has no chat template, which methods btf and fast need"):
        encode(model, chat("a", "b"))
