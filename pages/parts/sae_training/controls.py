"""Shared by the parts of the SAE training page."""

from typing import Any


def bound(key: str) -> dict[str, Any]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": f"training_{key}", "bind": "query-params"}
