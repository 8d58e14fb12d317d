"""What the commands share: the application, common options, opening setups, and printing tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from core.console import print_table, stage_progress
from core.errors import UsageError
from core.scoring.sharpness import parse_sharpness
from core.settings import ScoreSettings, given_path, store_root

if TYPE_CHECKING:
    import pandas as pd

    from core.catalog import Setup
    from core.scoring.scorer import ScoredTopic
    from core.store.reader import Store
    from core.text.prompts import Topic

app = typer.Typer(
    name="python -m core",
    help="Steerscope: find the SAE neurons that carry a topic, and steer a language model with them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def path_option(name: str, help: str, **more: Any) -> Any:
    """An option that takes a path."""
    return typer.Option(name, parser=given_path, metavar="PATH", help=help, **more)


SetupName = Annotated[str, typer.Argument(help="Name of a setup; `setups` lists them.")]
StoreDir = Annotated[Path | None, path_option("--store", "Folder with the stores (or $STEERSCOPE_STORE).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Out = Annotated[Path | None, path_option("--out", "Write to a .csv, .md, .tex, .parquet or .xlsx file.")]
TopicText = Annotated[str | None, typer.Option("--topic", help="A topic: any text, or the name of a bundled one.")]
TopicFile = Annotated[Path | None, path_option("--topic-file", "A topic as a file of prompts.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**64 - 1, help="Seed of the sampling, the same for every column.")
]
Tokens = Annotated[int, typer.Option("--tokens", help="New tokens per text.")]
KeepError = Annotated[bool, typer.Option("--keep-error", help="Add the SAE's reconstruction error back.")]
MatchedCount = Annotated[bool, typer.Option("--matched-count", help="Swap keeps as many neurons per token as the SAE.")]
ClampN = Annotated[int, typer.Option("--clamp-n", help="Number of neurons that clamp sets.")]
Sharpness = Annotated[
    Any,
    typer.Option(
        "--sharpness",
        parser=parse_sharpness,
        metavar="NUMBER|auto",
        help="Swap chooses by pre-activation x score^sharpness; 1: the paper's; auto: half of the neurons change.",
    ),
]
Multiplier = Annotated[float, typer.Option("--multiplier", help="Value that clamp sets, times the reference value.")]
Current = Annotated[bool, typer.Option("--current", help="Clamp relative to the neuron's own activation on the token.")]

EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="local: in this process; ray: in workers of Ray, here or on a cluster."),
]
Address = Annotated[
    str | None, typer.Option("--address", help="With --engine ray: auto, host:port or ray://host:port of a cluster.")
]


Cpus = Annotated[float, typer.Option("--cpus", min=0.1, help="With --engine ray: CPU cores for each worker.")]
Gpus = Annotated[
    float | None,
    typer.Option("--gpus", min=0, help="With --engine ray: GPUs for each worker; by default 1 if a machine has any."),
]


def check_address(engine: str, address: str | None, *, asks: bool = False) -> None:
    """Checks that --address, --cpus and --gpus are given only with --engine ray.

    Args:
        asks: whether --cpus or --gpus was given.

    Raises:
        UsageError: one of them was given with another engine.
    """
    if engine == "ray":
        return
    if address is not None:
        raise UsageError("--address names a Ray cluster; add --engine ray")
    if asks:
        raise UsageError("--cpus and --gpus are for the workers of Ray; add --engine ray")


def setup_named(name: str) -> "Setup":
    from core.catalog import find_setup

    return find_setup(name)


def open_store(name: str, store: Path | None) -> "Store":
    from core.store.reader import Store

    return Store.open(store_root(store), setup_named(name).name)


def one_topic(text: str | None, file: Path | None) -> "Topic":
    """The topic that the options give.

    Raises:
        UsageError: both options are given, or neither.
    """
    from core.text.prompts import find_topic, read_topic

    if (text is None) == (file is None):
        raise UsageError("give the topic either as --topic TEXT or as --topic-file FILE")
    return read_topic(file) if file else find_topic(text or "")


def show(frame: "pd.DataFrame", *, as_json: bool, out: Path | None = None, title: str = "") -> None:
    """Prints a table, or writes it to the file `out`."""
    if out is not None:
        from core.results.export import export_table

        export_table(frame, out)
        typer.echo(f"{len(frame):,} rows -> {out}", err=True)
        return
    print_table(frame, as_json=as_json, title=title)


def score_in(
    setup: str, topic: "Topic", store: Path | None, settings: ScoreSettings
) -> tuple["Store", "ScoredTopic", "pd.DataFrame"]:
    """A setup's store, a topic scored in it, and every neuron's case: neuron, z, p, case."""
    from core import api

    bench = api.open_topics(setup, store=store)
    scored = api.score(bench, topic, settings)
    with stage_progress("Measuring what chance gives") as progress:
        return bench.store, scored, bench.cases(scored, progress)
