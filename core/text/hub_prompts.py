"""Reference prompts drawn from a Hugging Face dataset: P3's tasks (Topic Alignment paper, 3.3), or any other dataset.

`p3` stands for bigscience/P3, of which the paper draws 1,500 prompts of each of 660 tasks as its pool; any other
dataset is `hub:NAME[:SPLIT[:COLUMN]]`. The rows are streamed, shuffled by the seed, and written to a file, task by
task, so that a stopped draw goes on. Everything else reads that file, as it reads any other.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from core.errors import HubError, PromptFileError, UsageError, in_one_line
from core.files import written_whole
from core.progress import Progress

P3 = "p3"
_P3_NAME, _P3_COLUMN = "bigscience/P3", "inputs_pretokenized"
_PREFIX = "hub:"
_COLUMNS = ("text", "prompt", "inputs_pretokenized", "question", "content")  # tried in this order
_SHUFFLED_ROWS = 10_000
_DEFAULT = "default"  # the datasets library's name of a dataset's only configuration


@dataclass(frozen=True, kw_only=True)
class HubPrompts:
    """Which rows of which dataset become reference prompts."""

    name: str  # owner/name on the hub
    split: str = "train"
    column: str | None = None  # None: the first of `_COLUMNS` that there is
    per_task: int = 12  # rows of each task (configuration); 660 tasks of 12 are the 8K prompts that the paper uses
    seed: int = 0

    @property
    def file_name(self) -> str:
        """Name of the file of drawn prompts, which changes with everything that they follow from."""
        key = json.dumps([self.name, self.split, self.column, self.per_task, self.seed])
        digest = hashlib.blake2b(key.encode(), digest_size=6).hexdigest()
        return f"{self.name.replace('/', '--')}-{digest}"


def hub_prompts(reference: str, *, per_task: int | None = None, seed: int = 0) -> HubPrompts | None:
    """What `p3` or `hub:NAME[:SPLIT[:COLUMN]]` names; None for any other reference, which is a file.

    Raises:
        UsageError: there is no name, or there are more than three parts.
    """
    n = HubPrompts.per_task if per_task is None else per_task
    if reference == P3:
        return HubPrompts(name=_P3_NAME, column=_P3_COLUMN, per_task=n, seed=seed)
    if not reference.startswith(_PREFIX):
        return None
    name, *more = reference.removeprefix(_PREFIX).split(":")
    if not name or len(more) > 2 or not all(more):
        raise UsageError(f"a dataset is named hub:NAME, hub:NAME:SPLIT or hub:NAME:SPLIT:COLUMN, not '{reference}'")
    split, column = [*more, None, None][:2]
    return HubPrompts(name=name, split=split or HubPrompts.split, column=column, per_task=n, seed=seed)


def drawn_prompts(wanted: HubPrompts, folder: Path, progress: Progress = lambda stage, share: None) -> Path:
    """The file of drawn prompts below `folder`: drawn now, or as far as a stopped draw left to do.

    Raises:
        HubError: the hub cannot be reached, and its cache does not have the dataset.
        PromptFileError: a task has no column of text, or none has a row.
        OSError: the disk is full or cannot be written.
    """
    path = folder / f"{wanted.file_name}.jsonl"
    if path.exists():
        return path
    parts = folder / f"{wanted.file_name}.tasks"
    parts.mkdir(parents=True, exist_ok=True)
    tasks = _tasks(wanted.name)
    lines = []
    for number, task in enumerate(tasks):
        progress(f"{wanted.name}: {task}, task {number + 1:,} of {len(tasks):,}", number / len(tasks))
        part = parts / f"{hashlib.blake2b(task.encode(), digest_size=8).hexdigest()}.jsonl"
        if not part.exists():
            rows = [{"text": text, "task": task, "group": wanted.name} for text in _texts(wanted, task, path)]
            with written_whole(part) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        lines.append(part.read_text(encoding="utf-8"))
    if not any(lines):
        raise PromptFileError(path, f"no row of {wanted.name} has text in split '{wanted.split}'")
    with written_whole(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
    return path


def _tasks(name: str) -> list[str]:
    """The dataset's configurations; those in the cache where the hub cannot be reached."""
    import datasets

    _quiet()
    try:
        found: list[str] = datasets.get_dataset_config_names(name)
    except (OSError, ValueError) as exc:
        raise HubError(_unreachable(name, exc)) from exc
    return _cached_tasks(name) or found if found == [_DEFAULT] else sorted(found)


def _cached_tasks(name: str) -> list[str]:
    """Configurations in the datasets library's cache, which cannot list them itself."""
    import datasets

    owner, _, own = name.rpartition("/")
    snake = datasets.naming.camelcase_to_snakecase(own)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{snake}"
    return sorted({info.parents[2].name for info in folder.glob("*/*/*/dataset_info.json")})


def _texts(wanted: HubPrompts, task: str, path: Path) -> list[str]:
    """Texts of the task's first rows in the order that the seed gives; those of only white space are left out."""
    import datasets

    name = None if task == _DEFAULT else task
    try:
        rows = datasets.load_dataset(wanted.name, name, split=wanted.split, streaming=True)
        shuffled = rows.shuffle(seed=wanted.seed, buffer_size=_SHUFFLED_ROWS)
        return list(islice(_written(shuffled, wanted, path), wanted.per_task))
    except (OSError, ValueError) as exc:
        raise HubError(_unreachable(wanted.name, exc)) from exc


def _written(rows: Any, wanted: HubPrompts, path: Path) -> Iterator[str]:
    for row in rows:
        if text := _text(row, wanted, path).strip():
            yield text


def _text(row: Mapping[str, Any], wanted: HubPrompts, path: Path) -> str:
    column = next((name for name in ([wanted.column] if wanted.column else _COLUMNS) if name in row), None)
    if column is None or not isinstance(row[column], str):
        raise PromptFileError(
            path, f"{wanted.name} has no text column {wanted.column or ' or '.join(_COLUMNS)}; it has {sorted(row)}: "
            f"name one, hub:{wanted.name}:{wanted.split}:COLUMN"
        )  # fmt: skip
    return str(row[column])


def _unreachable(name: str, exc: Exception) -> str:
    return f"cannot read dataset '{name}' ({in_one_line(exc)}); connect, or give --reference a local file"


def _quiet() -> None:
    """Leaves out the library's notes that it reads its cache, a line for every task."""
    logging.getLogger("datasets").setLevel(logging.ERROR)
