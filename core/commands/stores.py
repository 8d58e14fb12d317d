"""The commands on stores: build, ship, score, export and doctor."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from core.commands.options import (
    Address,
    AsJson,
    Cpus,
    EngineName,
    Gpus,
    Out,
    SetupName,
    StoreDir,
    TopicFile,
    TopicText,
    app,
    check_address,
    one_topic,
    open_store,
    path_option,
    score_in,
    setup_named,
    show,
)
from core.console import stage_progress
from core.errors import UsageError
from core.evaluation.experiments import EXPERIMENTS
from core.files import require_file
from core.settings import Distance, ScoreSettings, Summary, Variant, given_path, store_root

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from jaxtyping import Float64

    from core.scoring.scorer import ScoredTopic
    from core.store.reader import Store


@app.command()
def build(
    setup: SetupName,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="File of reference prompts, p3, or hub:NAME[:SPLIT[:COLUMN]] of the hub."),
    ] = None,
    per_task: Annotated[
        int | None, typer.Option("--per-task", min=1, help="Prompts of each task of p3 or hub:NAME (12).")
    ] = None,
    reference_seed: Annotated[int, typer.Option("--reference-seed", min=0, help="Seed of that draw.")] = 0,
    prompts: Annotated[int | None, typer.Option("--prompts", min=1, help="Use this many, evenly spaced.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Continue a build that was stopped.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Build again even if the store is up to date.")] = False,
    engine: EngineName = "local",
    address: Address = None,
    cpus: Cpus = 1.0,
    gpus: Gpus = None,
    store: StoreDir = None,
) -> None:
    """Run the reference prompts through the model and the SAE, and build the store from them."""
    from dataclasses import replace

    check_address(engine, address, asks=cpus != 1 or gpus is not None)
    chosen = setup_named(setup)
    if reference is not None:
        drawn = _reference_file(reference, per_task, reference_seed, store_root(store))
        chosen = replace(chosen, reference=str(drawn))
    build_store = _builder(engine, address, cpus, gpus)
    with stage_progress(f"Building the store of {setup}") as progress:
        path = build_store(chosen, store_root(store), prompts=prompts, resume=resume, force=force, progress=progress)
    typer.echo(f"store: {path}", err=True)


def _reference_file(reference: str, per_task: int | None, seed: int, root: Path) -> Path:
    """The file of reference prompts; those of a dataset are drawn first, into the folder of stores."""
    from core.text.hub_prompts import drawn_prompts, hub_prompts

    wanted = hub_prompts(reference, per_task=per_task, seed=seed)
    if wanted is None:
        path = given_path(reference)
        require_file(path, "name a file of prompts (.txt, .csv, .jsonl, .parquet), p3, or hub:NAME")
        return path.resolve()
    with stage_progress(f"Drawing prompts of {wanted.name}") as progress:
        return drawn_prompts(wanted, root / "reference", progress).resolve()


def _builder(engine: str, address: str | None, cpus: float, gpus: float | None) -> Callable[..., Path]:
    """The function that builds a store with the engine."""
    if engine == "local":
        from core.build.pipeline import build as build_here

        return build_here
    from core.build.on_ray import build_on_ray
    from core.ray_tasks import Resources

    return partial(build_on_ray, address=address, resources=Resources(cpus=cpus, gpus=gpus))


@app.command()
def ship(
    setup: SetupName,
    out: Annotated[Path, path_option("--out", "Folder of shipped stores.")] = Path("data/stores"),
    store: StoreDir = None,
) -> None:
    """Write a setup's store and results as small Parquet files, which `build` takes where they fit."""
    from core.results.app_store import AppStore
    from core.store.shipped import write_shipped

    opened = open_store(setup, store)
    write_shipped(opened, AppStore(store_root(store)).contents(setup), out / setup)
    size = sum(file.stat().st_size for file in (out / setup).iterdir())
    typer.echo(f"{out / setup}: {size / 1e6:.1f} MB", err=True)


@app.command()
def score(
    setup: SetupName,
    topic: TopicText = None,
    topic_file: TopicFile = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Number of neurons to show, best first.")] = 20,
    neuron: Annotated[list[int] | None, typer.Option("--neuron", help="Only this neuron (repeatable).")] = None,
    groups: Annotated[bool, typer.Option("--groups", help="Where the top neurons' activation is, by group.")] = False,
    summary: Annotated[str, typer.Option(help="Prompt-level activation: sum, max, mean or count.")] = "sum",
    distance: Annotated[str, typer.Option(help="euclidean or squared (the ranking of cosine distance).")] = "euclidean",
    variant: Annotated[str, typer.Option(help="mean (Eq. 1) or variance (Eq. 1 with squared distances).")] = "mean",
    min_prompts: Annotated[int, typer.Option(help="A neuron active in fewer prompts has no score.")] = 20,
    max_density: Annotated[
        float | None, typer.Option(help="A neuron active on a larger share of the reference tokens has no score.")
    ] = None,
    strawman: Annotated[
        bool, typer.Option("--strawman", help="Also the share of the topic's own tokens it fires on; loads the model.")
    ] = False,
    out: Out = None,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Score every neuron by how close to a topic the prompts are on which it fires, and say which stand out."""
    from core.scoring.chance import verdict

    settings = ScoreSettings(
        summary=cast(Summary, summary),
        distance=cast(Distance, distance),
        variant=cast(Variant, variant),
        min_prompts=min_prompts,
        max_density=max_density,
    )
    if neuron:
        open_store(setup, store).neurons(neuron)  # a number out of range is told before the work
    opened, scored, cases = score_in(setup, one_topic(topic, topic_file), store, settings)
    ranked = scored.scores.ranked(None if neuron else top)
    if groups:
        show(_group_table(opened, ranked["neuron"].tolist()), as_json=as_json, out=out)
        return
    details = opened.neurons(neuron or ranked["neuron"].tolist())[["neuron", "top_tokens"]]
    frame = ranked.merge(cases, on="neuron").merge(details, on="neuron", how="right" if neuron else "left")
    if strawman:
        frame.insert(3, "strawman", _strawman(setup, store, scored)[frame["neuron"]])
    show(frame, as_json=as_json, out=out, title=f"{scored.topic.title}: neurons of {setup}")
    second, median = scored.scores.standing()
    typer.echo(f"{verdict(cases)}; second-best score {second:.2f}, median {median:.2f}", err=True)


def _strawman(setup: str, store: Path | None, scored: "ScoredTopic") -> "Float64[np.ndarray, 'd_sae']":
    """Share of the topic's own tokens on which each neuron fires, by the setup's model."""
    from core.api import open_setup
    from core.build.activations import token_activations
    from core.scoring.scores import strawman

    bench = open_setup(setup, store=store)
    active = token_activations(bench.model, bench.sae, scored.topic.prompts, max_length=bench.model.n_context)
    return strawman(active, bench.sae.d_sae)


def _group_table(store: "Store", neurons: list[int]) -> "pd.DataFrame":
    """Share of activation in each group of reference prompts, of these neurons and of all neurons."""
    shares = store.group_mass(neurons).merge(store.group_mass(), on="group", how="outer", suffixes=("_top", "_all"))
    shares = shares.fillna(0.0).assign(ratio=lambda t: t["share_top"] / t["share_all"])
    return shares.sort_values("ratio", ascending=False)


@app.command()
def export(
    setup: SetupName,
    what: Annotated[str, typer.Option("--what", help="scores, neurons, prompts, groups, collected, or an experiment.")],
    out: Annotated[Path, path_option("--out", "File to write.")],
    format: Annotated[
        str | None, typer.Option("--format", help="csv, md, latex, parquet or xlsx; by default from the suffix.")
    ] = None,
    topic: TopicText = None,
    topic_file: TopicFile = None,
    store: StoreDir = None,
) -> None:
    """Write any table of the app to a file."""
    from core.results.export import export_table

    frame = _exported(setup, what, store, topic, topic_file)
    export_table(frame, out, format)
    typer.echo(f"{len(frame):,} rows -> {out}", err=True)


def _exported(setup: str, what: str, store: Path | None, topic: str | None, file: Path | None) -> "pd.DataFrame":
    """The table that `export --what` names.

    Raises:
        UsageError: there is no such table; the message lists those there are.
    """
    from core.results.app_store import AppStore

    if what == "scores":
        opened, scored, cases = score_in(setup, one_topic(topic, file), store, ScoreSettings())
        known = opened.neurons()[["neuron", "top_tokens"]]
        return scored.scores.ranked(None).merge(cases, on="neuron").merge(known, on="neuron")
    if what in ("neurons", "prompts", "groups"):
        opened = open_store(setup, store)
        return {"neurons": opened.neurons, "prompts": opened.prompts, "groups": opened.group_mass}[what]()
    results = AppStore(store_root(store))
    if what == "collected":
        return results.collected()
    frame = results.result(setup_named(setup).name, what)
    if frame is None:
        raise UsageError(
            f"no table '{what}' for {setup}; there are scores, neurons, prompts, groups, collected, and the results of "
            f"`python -m core evaluate {setup} --what {','.join(EXPERIMENTS)}`"
        )
    return frame


@app.command()
def doctor(store: StoreDir = None, as_json: AsJson = False) -> None:
    """Check versions, devices and stores; the exit code is 1 where anything is wrong."""
    from core.doctor import examine

    found = examine(store_root(store))
    show(found, as_json=as_json)
    if not found["ok"].all():
        raise typer.Exit(1)
