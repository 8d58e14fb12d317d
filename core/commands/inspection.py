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
from core.settings import store_root

if TYPE_CHECKING:
    import pandas as pd

    from core.inspection import Inspection
    from core.results.names import Names


@app.command()
def inspect(
    setup: SetupName,
    text: Annotated[str | None, typer.Option("--text", help="The text to inspect.")] = None,
    text_file: Annotated[Path | None, path_option("--file", "File with the text, in UTF-8.")] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="The text is a chat; lines that begin with user: or assistant: begin a message."),
    ] = False,
    topic: TopicText = None,
    topic_file: TopicFile = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of neurons to show, largest sum first.")] = 20,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show each token's strongest neurons instead.")] = False,
    neuron: Annotated[
        int | None, typer.Option("--neuron", help="Show this neuron's activation on each token instead.")
    ] = None,
    out: Out = None,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Show which neurons fire on a text, token by token and over the whole text."""
    from core import api
    from core.inspection import fired_on, inspection_of
    from core.results.app_store import AppStore
    from core.results.names import open_names
    from core.text.messages import parse_messages

    typed = _text(text, text_file)
    chosen = None if topic is None and topic_file is None else one_topic(topic, topic_file)
    bench = api.open_setup(setup, store=store)
    scores = None if chosen is None else api.score(bench, chosen).scores
    fired = fired_on(bench, parse_messages(typed) if chat else typed)
    found, names = inspection_of(fired, scores), open_names(bench.store, AppStore(store_root(store)))
    if neuron is not None:
        found.tokens["activation"] = fired.activations(neuron, bench.sae.d_sae)
    neurons = _with_names(found.neurons.head(top), names)
    if as_json and out is None:
        print_json({"tokens": found.tokens.to_dict("records"), "neurons": neurons.to_dict("records")})
        return
    title = f"What fires on it in {setup}" if neuron is None else f"Neuron {names[neuron]} in {setup}"
    show(_token_table(found) if tokens or neuron is not None else neurons, as_json=False, out=out, title=title)


def _text(text: str | None, file: Path | None) -> str:
    """The text that the options give.

    Raises:
        UsageError: both options are given, or neither, or the file is not UTF-8.
        MissingFileError: there is no such file.
    """
    if (text is None) == (file is None):
        raise UsageError("give the text either as --text TEXT or as --file FILE")
    if file is None:
        return text or ""
    try:
        return require_file(file, "name a text file").read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise UsageError(f"'{file}' is not UTF-8 (byte {exc.start}); save it as UTF-8") from exc


def _with_names(neurons: "pd.DataFrame", names: "Names") -> "pd.DataFrame":
    """The neurons, each with the words of its name beside its number."""
    named = neurons.dropna(axis="columns", how="all")
    named.insert(1, "name", [names[neuron].words for neuron in named["neuron"]])
    return named


def _token_table(found: "Inspection") -> "pd.DataFrame":
    """One row per token: a neuron's activation where that was asked for, else its strongest as `neuron:activation`."""
    if "activation" in found.tokens:
        return found.tokens[["token", "special", "activation"]]
    pairs = zip(found.tokens["neurons"], found.tokens["activations"], strict=True)
    named = [" ".join(f"{n}:{a:.3g}" for n, a in zip(*pair, strict=True)) for pair in pairs]
    return found.tokens[["token", "special", "n_active", "topic_share"]].assign(strongest=named)
