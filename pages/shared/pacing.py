"""Drawing what streams: often enough to read along, seldom enough that drawing does not slow what is drawn."""

import time
from collections.abc import Iterable, Iterator

DRAW_EVERY_S = 0.2
_MOST = 0.1  # of the time goes to drawing, where one drawing takes long


def paced(steps: Iterable[object]) -> Iterator[None]:
    """Goes through all steps, and yields when it is time to draw: at the first, then every so often, and at the end."""
    due, drawn = 0.0, True
    for _ in steps:
        drawn = time.perf_counter() >= due
        if drawn:
            start = time.perf_counter()
            yield
            now = time.perf_counter()
            due = now + max(DRAW_EVERY_S, (now - start) / _MOST)
    if not drawn:
        yield
