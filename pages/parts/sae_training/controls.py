"""What the parts of the page have in common."""

from typing import Any


def bound(key: str) -> dict[str, Any]:
    """A widget's key, in the link too."""
    return {"key": f"training_{key}", "bind": "query-params"}
