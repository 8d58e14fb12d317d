"""Whether the hub answers: asked once and briefly, before a library asks again and again.

`huggingface_hub` tries every file of a model several times, each with a time-out of its own. Where the hub does not
answer, `hub_or_cache` lets the libraries look at their cache alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 4.0  # for the hub's first answer
_REMEMBERED_S = 60.0  # how long the answer, or its lack, holds

_lock = threading.Lock()
_asked: tuple[float, str, str | None] | None = None  # when, which hub, and why it did not answer


@contextmanager
def hub_or_cache() -> Iterator[str | None]:
    """Lets what runs inside take from the hub, or from its cache alone where the hub does not answer.

    Yields:
        Why the hub does not answer; None where it does, or where somebody switched it off.
    """
    from huggingface_hub import constants

    problem = None if constants.HF_HUB_OFFLINE else _problem(constants.ENDPOINT)
    if problem is None:
        yield None
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield problem
    finally:
        constants.HF_HUB_OFFLINE = False


def _problem(endpoint: str) -> str | None:
    """Why the hub does not answer; None where it does."""
    global _asked
    with _lock:
        if _asked is None or _asked[1] != endpoint or time.monotonic() - _asked[0] > _REMEMBERED_S:
            _asked = (time.monotonic(), endpoint, _asked_now(endpoint))
        return _asked[2]


def _asked_now(endpoint: str) -> str | None:
    from huggingface_hub import get_session

    found: list[str | None] = []

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=PATIENCE_S).status_code
            found.append(f"{endpoint} answers with status {status}" if status >= 500 else None)
        except Exception as exc:  # the errors of its HTTP library have no common base
            found.append(f"{endpoint} cannot be reached: {str(exc).strip() or type(exc).__name__}")

    # a thread, because looking up the host's name has no time-out
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return found[0] if found else f"{endpoint} does not answer within {PATIENCE_S:g} s"
