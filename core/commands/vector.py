"""The command vector: an edit as a steering vector for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import SetupName, StoreDir, TopicFile, TopicText, app, one_topic, path_option
from core.console import print_json
from core.errors import EditError, UsageError


@app.command()
def vector(
    setup: SetupName,
    out: Annotated[Path, path_option("--out", "A .safetensors file, or a .gguf one: llama.cpp's control vector.")],
    edit: Annotated[str, typer.Option("--edit", help="add, vector, clamp, swap, weight or sae.")] = "add",
    topic: TopicText = None,
    topic_file: TopicFile = None,
    neuron: Annotated[
        list[int] | None, typer.Option("--neuron", help="Neuron for add (repeatable); by default the topic's best.")
    ] = None,
    alpha: Annotated[
        list[float] | None, typer.Option("--alpha", help="Strengths in order: one per --neuron, or one for vector.")
    ] = None,
    store: StoreDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write an edit as one vector: what it adds to a token's activation, in the mean over neutral prompts."""
    from core import api
    from core.steering.directions import mean_shift
    from core.steering.vector_file import write_vector
    from core.text.prompts import unaligned_prompts

    neurons, alphas = neuron or [], alpha or []
    if len(alphas) < len(neurons) or len(alphas) > len(neurons) + 1:
        raise UsageError("give one --alpha per --neuron, in order, and at most one more for vector")
    steering = api.SteeringSettings(
        alphas=tuple(zip(neurons, alphas, strict=False)),
        vector_alpha=alphas[-1] if len(alphas) > len(neurons) else 1.0,
    )
    bench = api.open_setup(setup, store=store)
    chosen = None if topic is None and topic_file is None else one_topic(topic, topic_file)
    placed = bench.way(edit, None if chosen is None else api.score(bench, chosen), steering).placed
    if len(placed) != 1:
        raise EditError(f"'{edit}' is not one edit; a vector is made of add, vector, clamp, swap, weight or sae")
    direction = mean_shift(bench.model, placed[0].edit, unaligned_prompts())
    write_vector(direction, placed[0].edit.hook_name, bench.model, out)
    written = {"file": str(out), "hook_name": placed[0].edit.hook_name, "length": float(direction.norm())}
    if as_json:
        print_json(written)
    else:
        typer.echo(f"{edit} at {written['hook_name']}, length {written['length']:.4g} -> {out}", err=True)
