"""Prompts of every file format, typed topics of every script, and the bundled text, counted."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import EmptyTopicError, MissingFileError, PromptFileError, TopicTooLongError
from core.text.prompts import (
    MAX_TOPIC_CHARACTERS,
    Prompt,
    bundled_topics,
    continuations,
    dialogues,
    find_topic,
    parse_topic,
    questions,
    read_prompts,
    read_topic,
    reference_prompts,
    unaligned_prompts,
)

ROWS = [
    Prompt("A heart, mended", "news", "health"),
    Prompt('He said "rain"', "", ""),
    Prompt("שלום 心", "chat", "daily"),
]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- files ----


def test_txt_holds_one_prompt_a_line(tmp_path: Path) -> None:
    path = write(tmp_path, "p.txt", "\ufeffA heart\r\n\n   \n  שלום 心  \nform\x0cfeed and \u2028 separator\n")
    assert [p.text for p in read_prompts(path)] == ["A heart", "שלום 心", "form\x0cfeed and \u2028 separator"]


@pytest.mark.parametrize("column", ["text", "prompt"])
def test_csv_jsonl_and_parquet_hold_the_same_rows(column: str, tmp_path: Path) -> None:
    table = pd.DataFrame([{column: row.text, "task": row.task, "group": row.group, "id": 7} for row in ROWS])
    table.to_csv(tmp_path / "p.csv", index=False)
    table.to_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.jsonl").write_text("\n\n".join(json.dumps(row) for row in table.to_dict("records")))
    for suffix in ("csv", "jsonl", "parquet"):
        assert read_prompts(tmp_path / f"p.{suffix}") == ROWS, suffix


def test_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path, "P.CSV", "text\nhello\n")) == [Prompt("hello")]


def test_rows_without_text_are_left_out(tmp_path: Path) -> None:
    rows = [{"text": "hello"}, {"text": "  "}, {"text": None}, {"text": 3}, {"text": "again", "task": None}]
    path = write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert read_prompts(path) == [Prompt("hello"), Prompt("again")]
    table = pd.DataFrame({"text": ["hello", None], "group": [None, "x"], "task": [float("nan"), 1.0]})
    table.to_parquet(tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet") == [Prompt("hello")]


def test_json_string_may_hold_a_line_separator(tmp_path: Path) -> None:
    text = "one\u2028two\x85three"
    path = write(tmp_path, "p.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\r\n")
    assert read_prompts(path) == [Prompt(text)]


def test_characters_that_cannot_be_stored_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, "p.jsonl", '{"text": "a\\ud800b\\u0000c", "task": "\\udfff"}')
    assert read_prompts(path) == [Prompt("abc")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.docx", "text", "prompts are read from .txt, .csv, .jsonl, .parquet files, not '.docx'"),
        ("p.txt", "", "contains no prompts"),
        ("p.txt", " \n\n", "contains no prompts"),
        ("p.csv", "", "contains no prompts"),
        ("p.csv", "text,task\n", "contains no prompts"),
        ("p.csv", "words\nhello\n", r"no column text or prompt; it has \['words'\]"),
        ("p.csv", "a,b\n1,2,3,4\n", r"no column text or prompt; it has \['None', 'a', 'b'\]"),
        ("p.csv", f"text\n{'x' * 200_000}\n", r"not a CSV file \(field larger than field limit"),
        ("p.jsonl", "{}\n", r"no column text or prompt; it has \[\]"),
        ("p.jsonl", '{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("p.jsonl", '{"text": "a"}\n\n["b"]\n', "line 3 is not a JSON object"),
        ("p.jsonl", f'{{"text": {"9" * 5000}}}\n', "line 1 is not JSON"),
        ("p.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("p.txt", "naïve".encode("latin-1"), r"not UTF-8 \(byte 2\); save it as UTF-8"),
        ("p.csv", "text\nnaïve".encode("latin-1"), "not UTF-8"),
        ("p.jsonl", '{"text": "naïve"}'.encode("utf-16"), "not UTF-8"),
        ("p.parquet", "text\nhello", "not a Parquet file"),
        ("p.parquet", "", "not a Parquet file"),
    ],
)
def test_file_that_is_no_prompt_file_is_named(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(PromptFileError, match=message) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"'{path}': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nothing.txt", "."])
def test_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"^no file '.*'; name a file of prompts$"):
        read_prompts(tmp_path / name)


def test_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    with path.open("wb") as file:
        file.truncate(2**30 + 1)  # sparse: takes no space
    with pytest.raises(PromptFileError, match="larger than 1 GiB"):
        read_prompts(path)


def test_topic_from_a_file_takes_its_name(tmp_path: Path) -> None:
    topic = read_topic(write(tmp_path, "surgery.txt", "A heart\nA knee\n"))
    assert (topic.name, topic.title, topic.prompts) == ("surgery", "surgery", ("A heart", "A knee"))


# ---- typed topics ----


def test_typed_topic_is_one_prompt_a_line() -> None:
    assert parse_topic("heart surgery").prompts == ("heart surgery",)
    topic = parse_topic("  heart surgery \n\n knees\r\nhips ")
    assert topic.prompts == ("heart surgery", "knees", "hips")
    assert topic.title == "heart surgery (+2)"


@pytest.mark.parametrize(
    "text", ["ניתוח לב", "جراحة القلب", "心脏手术", "<script>alert(1)</script>", "**bold** $x$", "'; --"]
)
def test_topic_of_any_script_or_markup_stays_as_typed(text: str) -> None:
    topic = parse_topic(text)
    assert (topic.prompts, topic.title) == ((text,), text)


@pytest.mark.parametrize("text", ["", "   ", "\n\t\r\n", "\x00", "\ud800"])
def test_empty_topic_is_refused(text: str) -> None:
    with pytest.raises(EmptyTopicError, match="the topic is empty; type at least one word"):
        parse_topic(text)


def test_topic_of_100_000_characters_is_refused() -> None:
    parse_topic("x" * MAX_TOPIC_CHARACTERS)
    with pytest.raises(
        TopicTooLongError, match="the topic has 100,000 characters; at most 20,000 are read: shorten it"
    ):
        parse_topic("x" * 100_000)


@given(text=st.text(max_size=200))
def test_any_topic_is_either_empty_or_encodable_lines(text: str) -> None:
    try:
        topic = parse_topic(text)
    except EmptyTopicError:
        return
    assert topic.prompts
    for line in topic.prompts:
        assert line.encode()
        assert (line.strip(), line.splitlines()) == (line, [line])
        assert "\x00" not in line


def test_name_of_a_bundled_topic_finds_it() -> None:
    assert find_topic(" medical ") is bundled_topics()["medical"]
    assert find_topic("medicine").prompts == ("medicine",)


# ---- bundled text ----


def test_bundled_reference_is_8_288_prompts_in_13_groups() -> None:
    prompts = reference_prompts("embedded")
    assert len(prompts) == 8_288
    assert len({prompt.group for prompt in prompts}) == 13
    assert all(prompt.text and prompt.task and prompt.group for prompt in prompts)


def test_limit_spreads_over_the_whole_reference(reference_file: Path) -> None:
    everything = reference_prompts("embedded")
    some = reference_prompts("embedded", limit=1_036)
    assert some == everything[::8]
    counts, all_counts = Counter(p.group for p in some), Counter(p.group for p in everything)
    assert {group: counts[group] / n for group, n in all_counts.items()} == pytest.approx(
        dict.fromkeys(all_counts, 1 / 8), abs=0.02
    )
    whole = reference_prompts(str(reference_file))
    assert reference_prompts(str(reference_file), limit=10**6) == whole
    assert len(reference_prompts(str(reference_file), limit=7)) == 7


def test_bundled_topics_are_15_of_20_prompts() -> None:
    topics = bundled_topics()
    assert len(topics) == 15
    assert {len(topic.prompts) for topic in topics.values()} == {20}
    assert all(name == topic.name and topic.title for name, topic in topics.items())
    assert all(prompt.strip() for topic in topics.values() for prompt in topic.prompts)


def test_bundled_lists_have_their_lengths() -> None:
    assert (len(unaligned_prompts()), len(questions()), len(continuations())) == (40, 10, 24)
    for lines in (unaligned_prompts(), questions(), continuations()):
        assert len(set(lines)) == len(lines)


def test_bundled_dialogues_alternate_between_user_and_assistant() -> None:
    conversations = dialogues()
    assert len(conversations) == 1_040
    assert len({conversation["id"] for conversation in conversations}) == 1_040
    for conversation in conversations:
        roles = [message["role"] for message in conversation["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert all(message["content"].strip() for message in conversation["messages"])
