"""Models from GGUF files (llama.cpp's format), dequantised once into ordinary Hugging Face folders.

The folder holds bfloat16 safetensors, tokenizer and chat template. It is below the store folder and named by the file's
SHA-256. It appears only when it is complete, and then loads like any other model folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import ModelFolderError, StoreWriteError, in_one_line
from core.files import exclusive_lock
from core.progress import Progress
from core.settings import store_root

_SOURCE = "source.json"  # in a dequantised folder: identifies the file it was made from
_BLOCK_BYTES = 2**22
_LOCK_TIMEOUT_S = 1_800.0  # another process may be dequantising the same file


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def dequantised(path: Path, progress: Progress = lambda stage, share: None) -> Path:
    """The folder with a GGUF file's dequantised weights; created if it does not exist.

    Raises:
        ModelFolderError: the file is truncated, has no tokenizer, or has an architecture or quantisation that
            transformers cannot read.
        StoreWriteError: the disk is full, or the store folder cannot be written.
    """
    root = store_root() / "models"
    if (made := _made_of(path, root)) is not None:
        return made
    progress(f"Reading {path.name}", 0.0)
    folder = root / file_sha256(path)
    try:
        root.mkdir(parents=True, exist_ok=True)
        busy = f"process {{process}} is dequantising '{path.name}'; wait for it"
        with exclusive_lock(root / f"{folder.name}.lock", busy=busy, timeout_s=_LOCK_TIMEOUT_S):
            if not (folder / _SOURCE).is_file():
                with _parsed_once():
                    _checked(path)
                    _dequantise(path, folder, progress)
            (folder / _SOURCE).write_text(json.dumps(_identity(path)) + "\n", encoding="utf-8")
    except OSError as exc:
        intact = "nothing was kept; free 2 bytes for each parameter and try again"
        raise StoreWriteError(root, in_one_line(exc), intact) from exc
    progress(f"Reading {path.name}", 1.0)
    return folder


def _identity(path: Path) -> dict[str, Any]:
    """Path, size and modification time of a file: they identify it without reading it."""
    stat = path.stat()
    return {"path": str(path.resolve()), "bytes": stat.st_size, "changed_ns": stat.st_mtime_ns}


def _made_of(path: Path, root: Path) -> Path | None:
    """The folder made from exactly this file; None if there is none."""
    due = _identity(path)
    for source in root.glob(f"*/{_SOURCE}"):
        try:
            if json.loads(source.read_text(encoding="utf-8")) == due:
                return source.parent
        except (OSError, ValueError):  # being written, or damaged
            continue
    return None


def gguf_sizes(path: Path) -> tuple[int, int]:
    """A GGUF file's width of the residual stream, and number of blocks; some seconds, as the vocabulary is read too.

    Raises:
        ModelFolderError: the file is not GGUF, is truncated, or holds no language model.
    """
    reader = _checked(path)
    try:
        kind = reader.get_field("general.architecture").contents()
        return tuple(int(reader.get_field(f"{kind}.{key}").contents()) for key in ("embedding_length", "block_count"))  # type: ignore[return-value]
    except (AttributeError, TypeError, ValueError) as exc:
        raise ModelFolderError(f"'{path}' does not tell its sizes; take a GGUF file of a language model") from exc


def _checked(path: Path) -> Any:
    """A reader of the file.

    Raises:
        ModelFolderError: the file is not GGUF, is truncated, or has no tokenizer.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        ends = [int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors]
    except Exception as exc:  # the reader has no error class of its own
        raise ModelFolderError(
            f"'{path}' is no whole GGUF file ({in_one_line(exc)}); copy or download it again"
        ) from exc
    if not ends or max(ends) > path.stat().st_size:
        raise ModelFolderError(f"'{path}' is cut short: it lacks some of its weights; copy or download it again")
    if "tokenizer.ggml.tokens" not in reader.fields:
        raise ModelFolderError(f"'{path}' holds no tokenizer; take a GGUF file of the whole model")
    return reader


def _dequantise(path: Path, folder: Path, progress: Progress) -> None:
    """Writes the folder under a temporary name and then renames it, so that `folder` is always complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model, tokenizer = _read(path, progress)
        progress(f"Writing {path.stem}", 0.9)
        with _quiet():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(path: Path, progress: Progress) -> tuple[Any, Any]:
    """The model in bfloat16 and its tokenizer, as transformers reads them from the file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder = str(path.parent)
    named: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **named)
            progress(f"Dequantising {path.name}", 0.3)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                **named,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
    except Exception as exc:  # transformers raises ValueError, KeyError, NotImplementedError and others
        raise ModelFolderError(
            f"transformers cannot read '{path}' ({in_one_line(exc)}); it reads the architectures and quantisations "
            "that its documentation of GGUF lists: take another file, or the model's own safetensors"
        ) from exc
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelFolderError(f"'{path}' lacks {missing[0]} ({len(missing)} tensors in all); take another file")
    return model, tokenizer


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Lets transformers parse the file once: it does so for the tokenizer, the config and the weights, seconds each."""
    import gguf

    slow = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in slow.items():
        setattr(gguf, name, cache(function))
    try:
        yield
    finally:
        for name, function in slow.items():
            setattr(gguf, name, function)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides transformers' progress bars, which would mix with ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
