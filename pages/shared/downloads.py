"""Downloads of a table in every format."""

import pandas as pd
import streamlit as st

from core.results.export import FORMATS, export_bytes
from pages.shared.links import file_name

FORMAT_NAMES = {"csv": "CSV", "md": "Markdown", "latex": "LaTeX", "parquet": "Parquet", "xlsx": "Excel"}
_SUFFIXES = {"latex": "tex"}


def download_buttons(table: pd.DataFrame, *name: str, key: str, help: str) -> None:
    """One download button per format; a file is only written when its button is pressed.

    Args:
        name: parts of the file's name; the last says what the table is.
        key: prefix of the buttons' keys.
    """
    for format in FORMATS:
        st.download_button(
            FORMAT_NAMES[format],
            lambda format=format: export_bytes(table, format, name[-1]),
            file_name(*name, suffix=_SUFFIXES.get(format, format)),
            key=f"{key}_{format}",
            on_click="ignore",
            help=help,
        )
