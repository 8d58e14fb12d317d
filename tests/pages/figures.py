"""What a page's figures hold, as it was sent to the browser."""

import base64
import json
from typing import Any

import numpy as np
from streamlit.testing.v1 import AppTest


def figure(app: AppTest, number: int) -> dict[str, Any]:
    """The specification of a figure of the page, by its place from 0; arrays as numpy has them."""
    specification: dict[str, Any] = _decoded(json.loads(app.main.get("plotly_chart")[number].proto.spec))
    return specification


def _decoded(value: Any) -> Any:
    if isinstance(value, dict) and "bdata" in value:
        flat = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
        return flat.reshape([int(n) for n in value["shape"].split(",")]) if "shape" in value else flat
    if isinstance(value, dict):
        return {key: _decoded(inner) for key, inner in value.items()}
    return [_decoded(inner) for inner in value] if isinstance(value, list) else value
