"""The callback by which long-running work reports its progress."""

from collections.abc import Callable

Progress = Callable[[str, float], None]  # the stage's name, and the share of it that is done, 0 to 1
