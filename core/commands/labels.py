"""The command labels: what the neurons of a setup are called."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import AsJson, Out, SetupName, StoreDir, app, open_store, path_option, show
from core.errors import UsageError
from core.files import require_file
from core.settings import store_root


@app.command()
def labels(
    setup: SetupName,
    neuron: Annotated[int | None, typer.Option("--neuron", help="Give this neuron a label.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="The label; an empty one removes it.")] = None,
    source_file: Annotated[
        Path | None, path_option("--import", "A .csv file with columns neuron, label and, if any, source.")
    ] = None,
    out: Out = None,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """List the labels of a setup's neurons, your own and a judge's; set one, or import a table of them."""
    from core.results.app_store import AppStore
    from core.results.names import open_names, parse_labels

    if (neuron is None) != (label is None):
        raise UsageError("a label takes both --neuron NUMBER and --label TEXT")
    opened, results = open_store(setup, store), AppStore(store_root(store))
    if source_file is not None:
        content = require_file(source_file, "name a .csv file of labels").read_bytes()
        for source, imported in parse_labels(content, opened.d_sae).items():
            results.save_labels(setup, imported, source)
            typer.echo(f"{len(imported):,} labels of source {source} imported", err=True)
    if neuron is not None and label is not None:
        open_names(opened, results)[neuron]  # raises where there is no such neuron
        results.save_labels(setup, {neuron: label}, "user")
    show(results.labels(setup), as_json=as_json, out=out, title=f"Labels of neurons of {setup}")
