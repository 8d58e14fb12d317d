"""Atomic file writes, and file locks that are released when their process dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import MissingFileError, StoreBusyError, UnreadableFileError

_POLL_S = 0.02


def require_file(path: Path, next_step: str = "check the path") -> Path:
    """The path of a file that can be read.

    Raises:
        MissingFileError: there is no such file, or it is a folder.
        UnreadableFileError: the system does not open it.
    """
    try:
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise MissingFileError(path, next_step) from None
    except OSError as exc:
        raise UnreadableFileError(path, str(exc.strerror)) from None
    return path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; on exit that file is renamed to `path`, after an exception it is removed.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # the name must not reach the disk before the content does
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(path: Path, *, busy: str, timeout_s: float = 0.0) -> Iterator[None]:
    """Holds the lock file `path` against other processes and threads; the kernel releases it when the process dies.

    Args:
        busy: message of the error; `{process}` in it becomes the holder's process id.
        timeout_s: how long to wait for the lock.

    Raises:
        StoreBusyError: the lock is still held after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() >= deadline:
                    holder = os.pread(handle, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    raise StoreBusyError(busy.format(process=holder)) from exc
                time.sleep(_POLL_S)
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)  # frees the lock


def file_identity(path: Path) -> tuple[int, int, int] | None:
    """Inode, time and size, which change when the file is replaced; None without a file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
