"""How long work tells how far it is."""

from collections.abc import Callable

Progress = Callable[[str, float], None]  # what is being done, and the share of the whole that is done, 0 to 1
