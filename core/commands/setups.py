"""The commands on setups: setups and add-setup."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import AsJson, app, show


@app.command()
def setups(as_json: AsJson = False) -> None:
    """List the setups and what each still needs to run here."""
    import pandas as pd

    from core.catalog import listed_setups, missing_parts

    listed, problems = listed_setups()
    rows = [
        {"setup": s.name, "origin": s.origin, "title": s.title, "lacks": "; ".join(missing_parts(s)) or "nothing"}
        for s in listed.values()
    ]
    show(pd.DataFrame(rows), as_json=as_json)
    for problem in problems:
        typer.echo(f"error: {problem}", err=True)
    if problems:
        raise typer.Exit(2)


@app.command(name="add-setup")
def add_setup(
    name: Annotated[str, typer.Argument(help="Name of the new setup.")],
    model: Annotated[str, typer.Option("--model", help="A Hugging Face folder, a GGUF file, or a hub's name.")],
    sae: Annotated[str, typer.Option("--sae", help="An SAE folder, or release:id of sae_lens's list.")],
    title: Annotated[str | None, typer.Option("--title", help="One line on what it is.")] = None,
    hook_name: Annotated[str | None, typer.Option("--hook-name", help="Hook point; by default the SAE's own.")] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Of the model: float32 (default), bfloat16 or float16.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto (default), cuda, mps or cpu.")] = None,
    reference: Annotated[str | None, typer.Option("--reference", help="A file of reference prompts.")] = None,
    embedding_model: Annotated[
        str | None, typer.Option("--embedding-model", help="A sentence-transformers folder or a hub's name.")
    ] = None,
    context_size: Annotated[
        int | None, typer.Option("--context-size", help="Longer prompts are cut to this many tokens (256).")
    ] = None,
    first_token: Annotated[
        str | None, typer.Option("--first-token", help="Special token that plain text begins with.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Reference prompts go through the chat template.")] = False,
    instruct: Annotated[bool, typer.Option("--instruct", help="The model answers in its chat template.")] = False,
    n_parameters: Annotated[
        int | None, typer.Option("--parameters", help="Number of the model's parameters, to tell whether it fits.")
    ] = None,
) -> None:
    """Add a setup of your own to the file of setups, checked first."""
    from core.catalog import missing_parts
    from core.models.new_setup import add_setup as add
    from core.models.new_setup import setups_path

    given = {
        "model": model,
        "sae": sae,
        "title": title,
        "hook_name": hook_name,
        "dtype": dtype,
        "device": device,
        "reference": reference,
        "embedding_model": embedding_model,
        "context_size": context_size,
        "first_token": first_token,
        "chat": chat or None,
        "instruct": instruct or None,
        "n_parameters": n_parameters,
    }
    table = {key: value for key, value in given.items() if value is not None}
    setup = add(name, table, folder=Path.cwd())
    lacking = missing_parts(setup)
    typer.echo(f"added to {setups_path()}; it lacks {'; '.join(lacking) or 'nothing'}", err=True)
    typer.echo(f"python -m core build {name}")
