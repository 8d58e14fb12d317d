"""The commands train and bench."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from core.commands.options import Address, AsJson, EngineName, StoreDir, app, check_address, path_option, show
from core.console import stage_progress
from core.errors import UsageError
from core.files import require_file, written_whole
from core.settings import given_path, store_root


@app.command()
def train(
    config: Annotated[Path, typer.Argument(parser=given_path, metavar="CONFIG", help="TOML file; see data/configs.")],
    text: Annotated[
        Path | None, path_option("--text", "Folder with the config's texts.", envvar="STEERSCOPE_TEXT")
    ] = None,
    work: Annotated[Path, path_option("--work", "Folder for checkpoints.")] = Path("data/training"),
    out: Annotated[Path | None, path_option("--out", "Folder for the result, instead of the config's.")] = None,
    measure: Annotated[
        Path | None, path_option("--measure", "Train nothing: measure this finished SAE of the config again.")
    ] = None,
    engine: EngineName = "local",
    address: Address = None,
    store: StoreDir = None,
) -> None:
    """Train SAEs, or the classifier of acceptable English, from a config; stopped SAEs continue."""
    from core.training.run import run_training

    check_address(engine, address)
    require_file(config, "name a training config; data/configs has examples")
    if measure is not None:
        from core.training.measuring import measure_again

        with stage_progress(f"Measuring {measure.name}") as progress:
            folder = measure_again(config, measure, text or Path(), work / "saes", progress)
        typer.echo(f"measured: {folder}", err=True)
        return
    with stage_progress(f"Training {config.stem}") as progress:
        folder = run_training(
            config, text or Path(), work, out, progress, store_root(store), engine=engine, address=address
        )
    typer.echo(f"trained: {folder}", err=True)


@app.command()
def bench(
    only: Annotated[str | None, typer.Option("--only", help="Groups of benchmarks, separated by commas.")] = None,
    against: Annotated[str | None, typer.Option("--against", help="sae_lens: compare with its own classes.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Repeats of each side; medians are shown.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, to check that it runs.")] = False,
    page: Annotated[
        Path | None, path_option("--page", "Also write the table, the machine and the versions to a Markdown file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time this checkout against plain loops and other libraries, in one run, and print the ratios."""
    from benchmarks import table as benchmarks

    if against not in (None, "sae_lens"):
        raise UsageError(f"--against takes sae_lens, not '{against}'")
    groups = only.split(",") if only else list(benchmarks.GROUPS)
    known = (*benchmarks.GROUPS, *benchmarks.ON_REQUEST)
    if unknown := [group for group in groups if group not in known]:
        raise UsageError(f"no benchmarks '{unknown[0]}'; there are {', '.join(known)}")
    with stage_progress("Benchmarks") as progress:
        table = benchmarks.run(groups, repeats, quick=quick, against_sae_lens=against is not None, progress=progress)
    show(table, as_json=as_json, title="Medians; sides took turns")
    if page is not None:
        given = [*(["--only", only] if only else []), *(["--against", against] if against else [])]
        given += ["--repeats", str(repeats), *(["--quick"] if quick else [])]
        command = shlex.join(["python", "-m", "core", "bench", *given])
        with written_whole(page) as partial:
            partial.write_text(benchmarks.page(table, command), encoding="utf-8")
