"""Steering and what it does: generate, evaluate."""

from typing import TYPE_CHECKING, Annotated, cast

import pandas as pd
import typer

from core.commands.options import (
    AsJson,
    ClampN,
    Current,
    KeepError,
    MatchedCount,
    Multiplier,
    Seed,
    SetupName,
    StoreDir,
    Tokens,
    TopicFile,
    TopicText,
    app,
    one_topic,
    open_store,
    setup_named,
)
from core.console import print_json, print_table, stage_progress
from core.evaluation.experiments import (
    EXPERIMENTS,
    PAPER_COLUMNS,
    PROMPT_SETS,
    TEXT_COLUMNS,
    ExperimentOptions,
    find_experiments,
    run_and_save,
    split_names,
)
from core.settings import GenerationSettings, store_root

if TYPE_CHECKING:
    from core.edits import EditName
    from core.steering import Positions


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
    from core.edits import EDIT_NAMES
    from core.selection import describe_swap
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
    bench = open_workbench(setup_named(setup), open_store(setup, store))
    scored = None if topic is None and topic_file is None else bench.score(one_topic(topic, topic_file))
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
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="text: texts per prompt and column.")] = 1,
    columns: Annotated[
        str, typer.Option("--columns", help="text: ways of steering, of " + ", ".join(TEXT_COLUMNS) + ".")
    ] = ",".join(PAPER_COLUMNS),
    prompts: Annotated[str, typer.Option("--prompts", help="text: which prompts.")] = ",".join(PROMPT_SETS),
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
        seeds=seeds,
        columns=split_names(columns),
        prompts=split_names(prompts),
    )
    bench = open_workbench(setup_named(setup), open_store(setup, store))
    tables: dict[str, pd.DataFrame] = {}
    for name, experiment in experiments.items():
        with stage_progress(experiment.title) as progress:
            tables |= run_and_save(name, bench, options, AppStore(store_root(store)), setup, progress)
    if as_json:
        print_json({name: frame.to_dict("records") for name, frame in tables.items()})
        return
    for experiment in experiments.values():
        for printed in experiment.printed:
            print_table(printed.of(tables), as_json=False, title=printed.title)
