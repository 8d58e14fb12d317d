"""Adding a setup to the user's file: checked as far as this machine can, then written whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from core.catalog import EMBEDDED_REFERENCE, PLACES, Setup, built_in, user_setup, user_setups_file
from core.errors import AutoencoderError, SetupConfigError, UnknownHookError
from core.files import exclusive_lock, require_file, written_whole
from core.models.model_folder import local_sizes
from core.models.releases import problem_of, published_saes
from core.models.sae_folder import read_sae_folder
from core.settings import canonical_hook, given_path
from core.validated import read_toml, shown

_ORDER = {field.name: number for number, field in enumerate(fields(Setup))}
_BUSY = "process {process} is writing the file of setups; try again"
_PATIENCE_S = 5.0


def setups_path() -> Path:
    """The file that a setup is added to: the user's, else `setups.toml` in the working folder.

    Raises:
        MissingFileError, UnreadableFileError: see `user_setups_file`.
    """
    return (user_setups_file() or Path("setups.toml")).absolute()


def add_setup(
    name: str,
    table: Mapping[str, object],
    *,
    folder: Path | None = None,
    only_below: bool = False,
) -> Setup:
    """Adds a setup to the user's file, and returns it; nothing is written where anything is wrong.

    Args:
        table: the setup's keys, as the file has them.
        folder: what paths are relative to; by default the file's folder.
        only_below: refuse paths that do not lie below `folder`: for tables that come over a network.

    Raises:
        SetupConfigError: a wrong value, a name that is taken, a path that is refused, or a file that cannot be written.
        AutoencoderError, ModelFolderError, UnsafeWeightsError, UnknownHookError: the SAE or the model cannot be read,
            or they do not fit each other.
        MissingFileError, UnreadableFileError: the file of setups, or the reference prompts.
        StoreBusyError: another process is writing the file.
    """
    path = setups_path()
    folder = (folder or path.parent).absolute()
    if only_below:
        _check_below(table, folder)
    setup = user_setup(name, table, folder, f"setup {shown(name)}")
    if name in {setup.name for setup in built_in()}:
        raise SetupConfigError(f"the name '{name}' is taken by a built-in setup; choose another")
    _check_parts(setup)
    places = {key: _written_place(getattr(setup, key), path.parent) for key in PLACES if key in table}
    _append(path, name, {**table, **places})
    return setup


# ---- what is checked ----


def _check_below(table: Mapping[str, object], folder: Path) -> None:
    """Raises SetupConfigError for a path that leads out of the folder, whether there is something or not."""
    for key in PLACES:
        value = table.get(key)
        if isinstance(value, str) and value:
            places = [folder / given_path(value)]
            places += [Path(value)] if Path(value).exists() else []  # the loaders look in the working folder
            if not all(place.resolve().is_relative_to(folder.resolve()) for place in places):
                raise SetupConfigError(
                    f"{key} is a hub's name or lies below '{folder}', the folder of the file of setups, not "
                    f"{shown(value)}; elsewhere: python -m core add-setup"
                )


def _check_parts(setup: Setup) -> None:
    """Raises the error of the part that cannot be used; what a hub has to tell is left to it."""
    from huggingface_hub.errors import HFValidationError

    if setup.sae_is_release:
        if problem := problem_of(setup.sae):
            raise AutoencoderError(problem)
        listed = published_saes().get(setup.sae)
        d_in, hook = None, listed.hook_name if listed else canonical_hook(setup.sae.partition(":")[2])
    else:
        found = read_sae_folder(Path(setup.sae))
        d_in, hook = found.d_in, found.hook_name
    hook = setup.hook_name or hook
    if hook is None:
        raise AutoencoderError(f"'{setup.sae}' does not name its hook point; give hook_name")
    try:
        sizes = local_sizes(setup.model)
    except HFValidationError:
        raise SetupConfigError(
            f"model is a folder, a GGUF file or a hub's name; there is no {shown(setup.model)}"
        ) from None
    if sizes is not None:
        _check_hook(setup, hook, d_in, sizes.d_model, sizes.n_layers)
    if setup.reference != EMBEDDED_REFERENCE:
        require_file(Path(setup.reference), "name a file of reference prompts")


def _check_hook(setup: Setup, hook: str, d_in: int | None, d_model: int, n_layers: int) -> None:
    """Raises UnknownHookError or AutoencoderError unless the SAE fits the model at the hook point.

    Args:
        d_in: width that the SAE reads; None where only a hub knows.
    """
    block = re.match(r"blocks\.(\d+)\.", hook)
    if block and int(block[1]) >= n_layers:
        raise UnknownHookError(hook, setup.model, f"blocks.0 to blocks.{n_layers - 1}")
    # inside attention, and inside the MLP, other widths are right
    if d_in not in (None, d_model) and re.search(r"hook_(resid_\w+|mlp_out|attn_out|embed)$", hook):
        raise AutoencoderError(f"SAE '{setup.sae}' reads {d_in} dimensions at {hook}, but {setup.model} has {d_model}")


# ---- what is written ----


def _written_place(value: str, folder: Path) -> str:
    """A place as the file has it: relative to its folder where it lies below that; hub names as they are."""
    path = Path(value)
    if path.is_absolute() and path.is_relative_to(folder.resolve()):
        return path.relative_to(folder.resolve()).as_posix()
    return value


def _append(path: Path, name: str, table: Mapping[str, object]) -> None:
    """Appends a table to the file; every byte that stands there is kept."""
    target = path.resolve()  # a link stays one
    try:
        with exclusive_lock(target.with_name(f".{target.name}.lock"), busy=_BUSY, timeout_s=_PATIENCE_S):
            before = target.read_bytes() if target.exists() else b""
            after = _appended(before, name, table)
            _check_kept(path, after, name, table)
            with written_whole(target) as partial:
                partial.write_bytes(after)
                if target.exists():
                    shutil.copymode(target, partial)
    except OSError as exc:
        raise SetupConfigError(f"cannot write '{path}': {exc.strerror}; nothing was changed") from exc


def _appended(before: bytes, name: str, table: Mapping[str, object]) -> bytes:
    key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
    values = sorted(table.items(), key=lambda item: _ORDER[item[0]])
    # a string of JSON is one of TOML, but for the delete character, which TOML wants escaped
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f") for key, value in values]
    newline = "\r\n" if b"\r\n" in before else "\n"
    gap = "" if not before else newline if before.endswith(b"\n") else 2 * newline
    return before + (gap + newline.join([f"[setups.{key}]", *lines, ""])).encode()


def _check_kept(path: Path, after: bytes, name: str, table: Mapping[str, object]) -> None:
    """Raises SetupConfigError unless `after` has all that the file has now, and the new table, and no more."""
    now: dict[str, Any] = read_toml(path, SetupConfigError) if path.exists() else {}
    setups = now.get("setups", {})
    if isinstance(setups, dict) and name in setups:
        raise SetupConfigError(f"'{path}' has a setup '{name}' already; choose another name, or change it there")
    try:
        kept = isinstance(setups, dict) and tomllib.loads(after.decode("utf-8-sig")) == {
            **now,
            "setups": {**setups, name: dict(table)},
        }
    except ValueError:
        kept = False
    if not kept:
        raise SetupConfigError(f"'{path}' does not take another table at its end; write [setups.{name}] there yourself")
