"""Reference prompts from a dataset in P3's layout, in the datasets library's cache, without a hub."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.arrow_writer import ArrowWriter

from core.errors import HubError, PromptFileError, UsageError
from core.text import hub_prompts as module
from core.text.hub_prompts import HubPrompts, drawn_prompts, hub_prompts
from core.text.prompts import read_prompts

TASKS = {"ag_news_classify": 50, "imdb_Sentiment": 30, "tiny_task": 3}


def write_cached(folder: Path, rows: list[dict[str, Any]], task: str) -> None:
    """A task's rows as the datasets library caches them."""
    folder.mkdir(parents=True)
    features = datasets.Dataset.from_list(rows).features
    writer = ArrowWriter(path=str(folder / "p3-train.arrow"), features=features)
    for row in rows:
        writer.write(row)
    n, size = writer.finalize()
    split = {"name": "train", "num_bytes": size, "num_examples": n, "dataset_name": "p3"}
    datasets.DatasetInfo(
        features=features, builder_name="parquet", dataset_name="p3", config_name=task, version="0.0.0",
        splits={"train": split}, download_size=0, dataset_size=size,
    ).write_to_directory(str(folder))  # fmt: skip


@pytest.fixture
def p3_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    for task, n in TASKS.items():
        rows = [
            {"inputs": [1], "inputs_pretokenized": f"{task} {i}\n", "targets": [2], "targets_pretokenized": "yes"}
            for i in range(n)
        ]
        rows[0]["inputs_pretokenized"] = " \n"  # no prompt
        write_cached(cache / "bigscience___p3" / task / "0.0.0" / "abc", rows, task)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    return cache


def drawn(folder: Path, **changes: Any) -> list[tuple[str, str]]:
    wanted = hub_prompts("p3", **{"per_task": 5, **changes})
    assert wanted is not None
    return [(prompt.task, prompt.text) for prompt in read_prompts(drawn_prompts(wanted, folder))]


def test_each_task_gives_its_number_of_prompts(p3_cache: Path, tmp_path: Path) -> None:
    rows = drawn(tmp_path)
    tasks = [task for task, _ in rows]
    assert {task: tasks.count(task) for task in TASKS} == {"ag_news_classify": 5, "imdb_Sentiment": 5, "tiny_task": 2}
    assert len(set(rows)) == len(rows)
    assert all(text.startswith(f"{task} ") for task, text in rows)


def test_a_seed_gives_the_same_prompts_again(p3_cache: Path, tmp_path: Path) -> None:
    assert drawn(tmp_path / "a") == drawn(tmp_path / "b")
    assert drawn(tmp_path / "a", seed=1) != drawn(tmp_path / "a")


def test_stopped_draw_goes_on_with_the_next_task(
    p3_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, asked = module._texts, []

    def stop_at_third(wanted: HubPrompts, task: str, path: Path) -> list[str]:
        asked.append(task)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return texts(wanted, task, path)

    monkeypatch.setattr(module, "_texts", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))
    rows = drawn(tmp_path)
    assert asked == [*sorted(TASKS), sorted(TASKS)[-1]]  # none but the last is asked for again
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", p3_cache)
    assert rows == drawn(tmp_path / "unbroken")


def test_drawn_file_is_taken_as_it_is(p3_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = drawn(tmp_path)
    monkeypatch.setattr(module, "_tasks", lambda name: pytest.fail("nothing was to be read"))
    assert drawn(tmp_path) == rows


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("p3", HubPrompts(name="bigscience/P3", column="inputs_pretokenized")),
        ("hub:a/b", HubPrompts(name="a/b")),
        ("hub:a/b:test", HubPrompts(name="a/b", split="test")),
        ("hub:a/b:test:body", HubPrompts(name="a/b", split="test", column="body")),
        ("prompts.txt", None),
    ],
)
def test_references_are_parsed(reference: str, expected: HubPrompts | None) -> None:
    assert hub_prompts(reference) == expected


@pytest.mark.parametrize("reference", ["hub:", "hub::test", "hub:a:b:c:d", "hub:a::c"])
def test_reference_of_another_form_is_refused(reference: str) -> None:
    with pytest.raises(UsageError, match="a dataset is named hub:NAME"):
        hub_prompts(reference)


def test_hub_that_cannot_be_reached_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "empty")
    with pytest.raises(HubError, match=r"cannot read dataset 'bigscience/P3' \(.*\); connect, or give --reference"):
        drawn(tmp_path)


def test_missing_column_names_those_there_are(p3_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match=r"has no text column body; it has \['inputs', 'inputs_pretokenized'"):
        drawn_prompts(HubPrompts(name="bigscience/P3", column="body"), tmp_path)


def test_file_holds_plain_rows(p3_cache: Path, tmp_path: Path) -> None:
    path = drawn_prompts(HubPrompts(name="bigscience/P3", column="inputs_pretokenized", per_task=1), tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == len(TASKS)
    assert set(rows[0]) == {"text", "task", "group"}


def test_build_takes_p3_as_reference(
    p3_cache: Path, user_setups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.cli import main
    from core.store.reader import Store

    monkeypatch.setenv("STEERSCOPE_SETUPS", str(user_setups))
    arguments = ["build", "gpt2-topk", "--reference", "p3", "--per-task", "4", "--store", str(tmp_path / "store")]
    assert main(arguments) == 0
    with Store.open(tmp_path / "store", "gpt2-topk") as store:
        prompts = store.prompts()
    assert prompts["task"].value_counts().to_dict() == {"ag_news_classify": 4, "imdb_Sentiment": 4, "tiny_task": 2}
