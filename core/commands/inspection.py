"""The command inspect: which neurons fire on a text of the user's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands.options import (
    AsJson,
    Out,
    SetupName,
    StoreDir,
    TopicFile,
    TopicText,
    app,
    one_topic,
    path_option,
    show,
)
from core.console import print_json
from core.errors import UsageError
from core.files import require_file

if TYPE_CHECKING:
    import pandas as pd

    from core.inspection import Inspection
    from core.steering.workbench import Workbench


@app.command()
def inspect(
    setup: SetupName,
    text: Annotated[str | None, typer.Option("--text", help="The text to inspect.")] = None,
    text_file: Annotated[Path | None, path_option("--text-file", "File with the text, in UTF-8.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="The text is a user's message in the chat template.")] = False,
    topic: TopicText = None,
    topic_file: TopicFile = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of neurons to show, largest sum first.")] = 20,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show each token's strongest neurons instead.")] = False,
    out: Out = None,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Show which neurons fire on a text, token by token and over the whole text."""
    from core import api

    typed = _text(text, text_file)
    chosen = None if topic is None and topic_file is None else one_topic(topic, topic_file)
    bench = api.open_setup(setup, store=store)
    scored = None if chosen is None else api.score(bench, chosen)
    found = api.inspect(bench, [{"role": "user", "content": typed}] if chat else typed, scored)
    neurons = _with_top_tokens(bench, found, top)
    if as_json and out is None:
        print_json({"tokens": found.tokens.to_dict("records"), "neurons": neurons.to_dict("records")})
        return
    show(_token_table(found) if tokens else neurons, as_json=False, out=out, title=f"What fires on it in {setup}")


def _text(text: str | None, file: Path | None) -> str:
    """The text that the options give.

    Raises:
        UsageError: both options are given, or neither, or the file is not UTF-8.
        MissingFileError: there is no such file.
    """
    if (text is None) == (file is None):
        raise UsageError("give the text either as --text TEXT or as --text-file FILE")
    if file is None:
        return text or ""
    try:
        return require_file(file, "name a text file").read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(f"'{file}' is not UTF-8 (byte {exc.start}); save it as UTF-8") from exc


def _with_top_tokens(bench: "Workbench", found: "Inspection", top: int) -> "pd.DataFrame":
    """The text's first neurons, with the reference tokens on which each fires most."""
    first = found.neurons.head(top)
    known = bench.store.neurons(first["neuron"].tolist())[["neuron", "top_tokens"]]
    return first.merge(known, on="neuron", how="left").dropna(axis="columns", how="all")


def _token_table(found: "Inspection") -> "pd.DataFrame":
    """One row per token, with its strongest neurons as `neuron:activation`."""
    pairs = zip(found.tokens["neurons"], found.tokens["activations"], strict=True)
    named = [" ".join(f"{n}:{a:.3g}" for n, a in zip(*pair, strict=True)) for pair in pairs]
    return found.tokens[["token", "special", "n_active", "topic_share"]].assign(strongest=named)
