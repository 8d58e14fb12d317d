"""The command line: `python -m core COMMAND --help`.

Exit codes: 0 done, 1 stopped or failed, 2 a wrong request or a state that needs mending; errors are one line on stderr.
Commands import what is heavy only when they run, so that help comes at once.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import pandas as pd
import typer

from core.console import print_json, print_table, stage_progress
from core.errors import MissingFileError, SteerscopeError, UsageError
from core.evaluation.experiments import EXPERIMENTS, ExperimentOptions, find_experiments, run_and_save
from core.settings import Distance, GenerationSettings, ScoreSettings, Summary, Variant, store_root

if TYPE_CHECKING:
    from core.catalog import Setup
    from core.edits import EditName
    from core.prompts import Topic
    from core.steering import Positions
    from core.store import Store
    from core.workbench import ScoredTopic

app = typer.Typer(
    name="python -m core",
    help="Steerscope: find the SAE neurons that carry a topic, and steer a language model with them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SetupName = Annotated[str, typer.Argument(help="Name of a setup; `setups` lists them.")]
StoreDir = Annotated[Path | None, typer.Option("--store", help="Folder of the stores (or $STEERSCOPE_STORE).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Out = Annotated[Path | None, typer.Option("--out", help="Write the table to a .csv, .md or .parquet file.")]
TopicText = Annotated[str | None, typer.Option("--topic", help="A topic: any text, or the name of a bundled one.")]
TopicFile = Annotated[Path | None, typer.Option("--topic-file", help="A topic as a file of prompts.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the sampling, the same for every column.")]
Tokens = Annotated[int, typer.Option("--tokens", help="New tokens per text.")]
KeepError = Annotated[bool, typer.Option("--keep-error", help="Keep what the SAE does not reconstruct.")]
MatchedCount = Annotated[bool, typer.Option("--matched-count", help="Swap keeps as many neurons a token as the SAE.")]
ClampN = Annotated[int, typer.Option("--clamp-n", help="Neurons that clamp forces.")]
Multiplier = Annotated[float, typer.Option("--multiplier", help="Clamp's value, times the reference value.")]
Current = Annotated[bool, typer.Option("--current", help="Clamp relative to the neuron's own activation on the token.")]


def _setup(name: str) -> "Setup":
    from core.catalog import find_setup

    return find_setup(name)


def _open(name: str, store: Path | None) -> "Store":
    from core.store import Store

    return Store.open(store_root(store), _setup(name).name)


def _topic(text: str | None, file: Path | None) -> "Topic":
    """The topic of the options.

    Raises:
        UsageError: both or none of them.
    """
    from core.prompts import find_topic, read_topic

    if (text is None) == (file is None):
        raise UsageError("give the topic either as --topic TEXT or as --topic-file FILE")
    return read_topic(file) if file else find_topic(text or "")


def _show(frame: pd.DataFrame, *, as_json: bool, out: Path | None = None, title: str = "") -> None:
    if out is not None:
        from core.export import export_table

        export_table(frame, out)
        typer.echo(f"{len(frame):,} rows -> {out}", err=True)
        return
    print_table(frame, as_json=as_json, title=title)


@app.command()
def setups(as_json: AsJson = False) -> None:
    """List the setups and what each lacks to run here."""
    from core.catalog import all_setups, missing_parts

    rows = [
        {"setup": s.name, "origin": s.origin, "title": s.title, "lacks": "; ".join(missing_parts(s)) or "nothing"}
        for s in all_setups().values()
    ]
    _show(pd.DataFrame(rows), as_json=as_json)


@app.command()
def build(
    setup: SetupName,
    reference: Annotated[Path | None, typer.Option("--reference", help="File of reference prompts.")] = None,
    prompts: Annotated[int | None, typer.Option("--prompts", min=1, help="Use an even spread of this many.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with a build that was killed.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Build anew although the store is up to date.")] = False,
    store: StoreDir = None,
) -> None:
    """Run the reference prompts through model and SAE into the store."""
    from dataclasses import replace

    from core.build import build as build_store

    chosen = _setup(setup)
    if reference is not None:
        if not reference.is_file():
            raise MissingFileError(reference, "name a file of prompts (.txt, .csv, .jsonl, .parquet)")
        chosen = replace(chosen, reference=str(reference.resolve()))
    with stage_progress(f"Building the store of {setup}") as progress:
        path = build_store(chosen, store_root(store), prompts=prompts, resume=resume, force=force, progress=progress)
    typer.echo(f"store: {path}", err=True)


def _score(setup: str, topic: "Topic", store: Path | None, settings: ScoreSettings) -> tuple["Store", "ScoredTopic"]:
    from core.embeddings import load_embedding_model
    from core.workbench import Scorer

    opened = _open(setup, store)
    return opened, Scorer(opened, load_embedding_model(_setup(setup).embedding_model)).score(topic, settings)


@app.command()
def score(
    setup: SetupName,
    topic: TopicText = None,
    topic_file: TopicFile = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many neurons, best first.")] = 20,
    neuron: Annotated[list[int] | None, typer.Option("--neuron", help="Only this neuron (repeatable).")] = None,
    groups: Annotated[bool, typer.Option("--groups", help="Where the top neurons' activation lies, by group.")] = False,
    summary: Annotated[str, typer.Option(help="Prompt-level activation: sum, max, mean or count.")] = "sum",
    distance: Annotated[str, typer.Option(help="euclidean or squared (the ranking of cosine distance).")] = "euclidean",
    variant: Annotated[str, typer.Option(help="mean (Eq. 1) or variance (distances squared in it).")] = "mean",
    min_prompts: Annotated[int, typer.Option(help="A neuron active in fewer prompts has no score.")] = 20,
    out: Out = None,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Score every neuron by how close to a topic the prompts are on which it fires."""
    settings = ScoreSettings(
        summary=cast(Summary, summary),
        distance=cast(Distance, distance),
        variant=cast(Variant, variant),
        min_prompts=min_prompts,
    )
    opened, scored = _score(setup, _topic(topic, topic_file), store, settings)
    ranked = scored.scores.ranked(None if neuron else top)
    if groups:
        _show(_group_table(opened, ranked["neuron"].tolist()), as_json=as_json, out=out)
        return
    details = opened.neurons(neuron or ranked["neuron"].tolist())[["neuron", "top_tokens"]]
    frame = ranked.merge(details, on="neuron", how="right" if neuron else "left")
    _show(frame, as_json=as_json, out=out, title=f"{scored.topic.title}: neurons of {setup}")


def _group_table(store: "Store", neurons: list[int]) -> pd.DataFrame:
    """Share of activation by group of reference prompts: these neurons against all."""
    shares = store.group_mass(neurons).merge(store.group_mass(), on="group", how="outer", suffixes=("_top", "_all"))
    shares = shares.fillna(0.0).assign(ratio=lambda t: t["share_top"] / t["share_all"])
    return shares.sort_values("ratio", ascending=False)


@app.command()
def generate(
    setup: SetupName,
    prompt: Annotated[str, typer.Option("--prompt", help="Text to continue.")],
    edit: Annotated[
        list[str] | None, typer.Option("--edit", help="none, sae, clamp, swap or weight (repeatable: columns).")
    ] = None,
    topic: TopicText = None,
    topic_file: TopicFile = None,
    seed: Seed = 0,
    tokens: Tokens = 64,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    keep_error: KeepError = False,
    matched_count: MatchedCount = False,
    clamp_n: ClampN = 5,
    multiplier: Multiplier = 10.0,
    current: Current = False,
    positions: Annotated[
        str | None, typer.Option("--positions", help="Edited tokens: all, content, generated, prompt or special.")
    ] = None,
    per_token: Annotated[bool, typer.Option("--per-token", help="With --json: figures of every token.")] = False,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt under each edit, with the figures of the text."""
    from core.edits import EDIT_NAMES, describe_swap
    from core.workbench import SteeringSettings, open_workbench

    names = cast("list[EditName]", edit or list(EDIT_NAMES[:4]))
    generation = GenerationSettings(max_new_tokens=tokens, seed=seed, greedy=greedy)
    steering = SteeringSettings(
        keep_error=keep_error,
        matched_count=matched_count,
        n=clamp_n,
        multiplier=multiplier,
        current=current,
        positions=cast("Positions | None", positions),
    )
    bench = open_workbench(_setup(setup), _open(setup, store))
    scored = None if topic is None and topic_file is None else bench.score(_topic(topic, topic_file))
    rows = []
    for name in names:
        column = bench.column(
            name, bench.edit(name, scored, steering), [prompt], scored, generation, steering.positions
        )
        made = column.generations[0]
        row: dict[str, object] = {"edit": name, "text": made.text, **column.figures[0]}
        row |= {"positions_edited": made.positions_edited, "positions_run": made.positions_run, "seed": seed}
        if per_token:
            row["tokens"] = [
                {"token": token, **vars(figures)} for token, figures in zip(made.tokens, made.figures, strict=True)
            ]
        rows.append(row)
    if "swap" in names:
        typer.echo(describe_swap(bench.sae, matched_count=matched_count), err=True)
    if as_json:
        print_json(rows)
    else:
        print_table(
            pd.DataFrame(rows).drop(columns="tokens", errors="ignore").set_index("edit").T.reset_index(), as_json=False
        )


@app.command()
def evaluate(
    setup: SetupName,
    what: Annotated[
        str, typer.Option("--what", help="Experiments, separated by commas: " + ", ".join(EXPERIMENTS) + ".")
    ],
    topic: Annotated[list[str] | None, typer.Option("--topic", help="Only this bundled topic (repeatable).")] = None,
    n: Annotated[int, typer.Option("--n", min=2, help="Continued prompts per topic and column.")] = 20,
    seed: Seed = 0,
    tokens: Tokens = 64,
    keep_error: KeepError = False,
    matched_count: MatchedCount = False,
    clamp_n: ClampN = 5,
    multiplier: Multiplier = 10.0,
    current: Current = False,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Run experiments on a setup; results go into the store and are printed."""
    from core.app_store import AppStore
    from core.prompts import bundled_topics, find_topic
    from core.workbench import SteeringSettings, open_workbench

    experiments = find_experiments(what)
    options = ExperimentOptions(
        topics=tuple(find_topic(name) for name in topic) if topic else tuple(bundled_topics().values()),
        n=n,
        generation=GenerationSettings(max_new_tokens=tokens, seed=seed),
        steering=SteeringSettings(
            keep_error=keep_error, matched_count=matched_count, n=clamp_n, multiplier=multiplier, current=current
        ),
        seed=seed,
    )
    bench = open_workbench(_setup(setup), _open(setup, store))
    tables: dict[str, pd.DataFrame] = {}
    for name, experiment in experiments.items():
        with stage_progress(experiment.title) as progress:
            tables |= run_and_save(name, bench, options, AppStore(store_root(store)), setup, progress)
    if as_json:
        print_json({name: frame.to_dict("records") for name, frame in tables.items()})
        return
    for experiment in experiments.values():
        for printed in experiment.printed:
            shown = tables[printed.table]
            print_table(shown[list(printed.columns or shown.columns)], as_json=False, title=printed.title)


@app.command()
def export(
    setup: SetupName,
    what: Annotated[str, typer.Option("--what", help="scores, neurons, prompts, groups, collected, or an experiment.")],
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    format: Annotated[
        str | None, typer.Option("--format", help="csv, md or parquet; else by the file's suffix.")
    ] = None,
    topic: TopicText = None,
    topic_file: TopicFile = None,
    store: StoreDir = None,
) -> None:
    """Write any table of the app to a file."""
    from core.export import export_table

    frame = _exported(setup, what, store, topic, topic_file)
    export_table(frame, out, format)
    typer.echo(f"{len(frame):,} rows -> {out}", err=True)


def _exported(setup: str, what: str, store: Path | None, topic: str | None, file: Path | None) -> pd.DataFrame:
    """The table that `export --what` names.

    Raises:
        UsageError: no such table; the message lists those there are.
    """
    from core.app_store import AppStore

    if what == "scores":
        opened, scored = _score(setup, _topic(topic, file), store, ScoreSettings())
        return scored.scores.ranked(None).merge(opened.neurons()[["neuron", "top_tokens"]], on="neuron")
    if what in ("neurons", "prompts", "groups"):
        opened = _open(setup, store)
        return {"neurons": opened.neurons, "prompts": opened.prompts, "groups": opened.group_mass}[what]()
    results = AppStore(store_root(store))
    if what == "collected":
        return results.collected()
    frame = results.result(_setup(setup).name, what)
    if frame is None:
        raise UsageError(
            f"no table '{what}' for {setup}; there are scores, neurons, prompts, groups, collected, and the results of "
            f"`python -m core evaluate {setup} --what {','.join(EXPERIMENTS)}`"
        )
    return frame


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="TOML file; see data/configs.")],
    text: Annotated[
        Path | None, typer.Option("--text", envvar="STEERSCOPE_TEXT", help="Folder that the config's texts are in.")
    ] = None,
    work: Annotated[Path, typer.Option("--work", help="Folder of checkpoints.")] = Path("data/training"),
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the result, instead of the config's.")] = None,
    store: StoreDir = None,
) -> None:
    """Train a language model or an SAE from a config; goes on where a killed run stopped."""
    from core.training.run import run_training

    if not config.is_file():
        raise MissingFileError(config, "name a training config; data/configs has examples")
    with stage_progress(f"Training {config.stem}") as progress:
        folder = run_training(config, text or Path(), work, out, progress, store_root(store))
    typer.echo(f"trained: {folder}", err=True)


@app.command()
def doctor(store: StoreDir = None, as_json: AsJson = False) -> None:
    """Check versions, devices and stores."""
    from core.doctor import examine

    _show(examine(store_root(store)), as_json=as_json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    # errors are one line on stderr: no bars of other libraries beside them
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = app(args=arguments, standalone_mode=False)
    except SteerscopeError as exc:
        problem = " ".join(str(exc).split())
    except typer.TyperException as exc:
        problem = f"{' '.join(str(exc).split())} (see --help)"
    except (KeyboardInterrupt, typer.Abort):
        print("stopped; the same command goes on where it can", file=sys.stderr)
        return 1
    else:
        return int(code or 0)
    print(f"error: {problem}", file=sys.stderr)
    return 2
