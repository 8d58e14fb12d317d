"""The commands that steer: generate and evaluate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

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
    Sharpness,
    StoreDir,
    Tokens,
    TopicFile,
    TopicText,
    app,
    one_topic,
    open_store,
)
from core.console import print_json, print_table, stage_progress
from core.errors import UsageError
from core.evaluation.experiments import (
    COLUMN_GROUPS,
    EXPERIMENTS,
    PROMPT_SETS,
    TEXT_COLUMNS,
    ExperimentOptions,
    find_experiments,
    split_names,
)
from core.evaluation.running import run_in_turn
from core.settings import GenerationSettings, store_root

if TYPE_CHECKING:
    import pandas as pd

    from core.results.app_store import AppStore
    from core.scoring.scorer import Scorer
    from core.steering.settings import Positions
    from core.steering.workbench import Column, Workbench
    from core.text.prompts import Topic


@app.command()
def generate(
    setup: SetupName,
    prompt: Annotated[str, typer.Option("--prompt", help="Text to continue.")],
    edit: Annotated[
        list[str] | None,
        typer.Option(
            "--edit",
            help="none, sae, clamp, swap, weight, add, vector, prompt; swap+add applies both (repeatable: columns).",
        ),
    ] = None,
    topic: TopicText = None,
    topic_file: TopicFile = None,
    seed: Seed = 0,
    tokens: Tokens = 64,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the most likely token.")] = False,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Put the prompt into the chat template; by default as the setup says."),
    ] = None,
    keep_error: KeepError = False,
    matched_count: MatchedCount = False,
    sharpness: Sharpness = "1",
    clamp_n: ClampN = 5,
    multiplier: Multiplier = 10.0,
    current: Current = False,
    neuron: Annotated[
        list[int] | None, typer.Option("--neuron", help="Neuron for add (repeatable); by default the topic's best.")
    ] = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(
            "--alpha", help="Strengths in order: one per --neuron, then one for vector (1: the difference in means)."
        ),
    ] = None,
    reach: Annotated[
        float | None,
        typer.Option("--reach", help="Clamp, swap, weight only on tokens with a neuron scored above this in reach."),
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option("--positions", help="Tokens edited: all, content, generated, prompt, special, user or assistant."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="Steer at this setup's layer of the same model too (repeatable)."),
    ] = None,
    per_token: Annotated[bool, typer.Option("--per-token", help="With --json: add figures of every token.")] = False,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt under each edit and show the figures of the texts."""
    from core import api
    from core.steering.settings import SteeringSettings

    alphas, vector_alpha = _strengths(neuron or [], alpha or [])
    steering = SteeringSettings(
        keep_error=keep_error,
        matched_count=matched_count,
        sharpness=sharpness,
        n=clamp_n,
        multiplier=multiplier,
        current=current,
        alphas=alphas,
        vector_alpha=vector_alpha,
        reach=reach,
        positions=cast("Positions | None", positions),
    )
    generation = GenerationSettings(max_new_tokens=tokens, seed=seed, greedy=greedy, chat=chat)
    chosen = None if topic is None and topic_file is None else one_topic(topic, topic_file)
    bench, others = _open_workbenches(setup, also or [], store)
    scored = [None if chosen is None else api.score(each, chosen) for each in (bench, *others)]
    columns = api.generate(
        bench,
        prompt,
        scored[0],
        edits=edit or api.DEFAULT_EDITS,
        steering=steering,
        generation=generation,
        also=dict(zip(others, scored[1:], strict=True)),
    )
    for note in dict.fromkeys(note for column in columns for note in column.notes):
        typer.echo(note, err=True)
    _print_columns(columns, seed=seed, per_token=per_token, as_json=as_json)


def _open_workbenches(setup: str, also: list[str], store: Path | None) -> tuple["Workbench", tuple["Workbench", ...]]:
    """The workbench of a setup, and those of setups at other layers of its model."""
    from core.api import open_setup

    bench = open_setup(setup, store=store)
    return bench, tuple(open_setup(name, store=store, beside=bench) for name in also)


def _strengths(neurons: list[int], alphas: list[float]) -> tuple[tuple[tuple[int, float], ...], float]:
    """Each neuron of add with its alpha, and the alpha of vector.

    Raises:
        UsageError: there are too few alphas, or too many.
    """
    if len(alphas) not in (len(neurons), len(neurons) + 1):
        raise UsageError(
            f"give each --neuron its --alpha, and at most one --alpha more, for vector; "
            f"there are {len(neurons)} neurons and {len(alphas)} alphas"
        )
    vector = alphas[len(neurons)] if len(alphas) > len(neurons) else 1.0
    return tuple(zip(neurons, alphas, strict=False)), vector


def _print_columns(columns: Sequence["Column"], *, seed: int, per_token: bool, as_json: bool) -> None:
    rows = []
    for column in columns:
        made = column.generations[0]
        row: dict[str, object] = {"edit": column.name, "text": made.text, **column.figures[0]}
        row |= {"positions_edited": made.positions_edited, "positions_run": made.positions_run, "seed": seed}
        if per_token:
            row["tokens"] = [
                {"token": token, **vars(figures)} for token, figures in zip(made.tokens, made.figures, strict=True)
            ]
        rows.append(row)
    if as_json:
        print_json(rows)
        return
    import pandas as pd

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
    typed_topic: Annotated[
        list[str] | None, typer.Option("--typed-topic", help="A topic of your own: any text (repeatable).")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=2, help="Prompts to continue per topic and column.")] = 20,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="text: texts per prompt and column.")] = 1,
    columns: Annotated[
        str,
        typer.Option(
            "--columns",
            help=f"text: ways of steering: {', '.join(COLUMN_GROUPS)}, or any of " + ", ".join(TEXT_COLUMNS) + ".",
        ),
    ] = "paper",
    prompts: Annotated[str, typer.Option("--prompts", help="text: sets of prompts.")] = ",".join(PROMPT_SETS),
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="text: steer at this setup's layer of the same model too (repeatable)."),
    ] = None,
    embedding: Annotated[
        str | None,
        typer.Option("--embedding", help="embedding: a second sentence-transformers model, a folder or a hub name."),
    ] = None,
    dialogues: Annotated[
        Path | None,
        typer.Option("--dialogues", help="reconstruction: .jsonl of conversations instead of the bundled ones."),
    ] = None,
    judge: Annotated[bool, typer.Option("--judge", help="text: let $STEERSCOPE_JUDGE_URL rate every text.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="text: keep the saved texts of other topics, prompts and columns.")
    ] = False,
    seed: Seed = 0,
    tokens: Tokens = 64,
    keep_error: KeepError = False,
    matched_count: MatchedCount = False,
    sharpness: Sharpness = "1",
    clamp_n: ClampN = 5,
    multiplier: Multiplier = 10.0,
    current: Current = False,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Run experiments on a setup, save their results in the store and print them."""
    from core.api import Scorer, open_topics
    from core.models.judge import judge_from_environment
    from core.results.app_store import AppStore
    from core.steering.settings import SteeringSettings

    experiments = find_experiments(what)
    topics, results = _topics(topic or [], typed_topic or []), AppStore(store_root(store))
    generation = GenerationSettings(max_new_tokens=tokens, seed=seed)
    steering = SteeringSettings(
        keep_error=keep_error,
        matched_count=matched_count,
        sharpness=sharpness,
        n=clamp_n,
        multiplier=multiplier,
        current=current,
    )
    if judge:
        judge_from_environment()  # a wrong address fails now
    open_store(setup, store).close()
    results.check()
    bench: Scorer
    others: tuple[Workbench, ...] = ()
    if any(experiment.needs_model for experiment in experiments.values()):
        bench, others = _open_workbenches(setup, also or [], store)
    else:
        bench = open_topics(setup, store=store)
    options = ExperimentOptions(
        topics=topics,
        n=n,
        generation=generation,
        steering=steering,
        seed=seed,
        seeds=seeds,
        columns=split_names(columns),
        prompts=split_names(prompts),
        also=others,
        judge=judge,
        keep=keep,
        dialogues=dialogues,
        embedding=embedding,
    )
    _evaluated(list(experiments), bench, options, results, setup, as_json=as_json)


def _topics(bundled: Sequence[str], typed: Sequence[str]) -> tuple["Topic", ...]:
    """The bundled topics of these names, and those typed; all bundled ones where neither is given.

    Raises:
        UnknownTopicError, EmptyTopicError, TopicTooLongError: see `core.text.prompts`.
    """
    from dataclasses import replace

    from core.text.prompts import bundled_topic, bundled_topics, parse_topic

    chosen = [bundled_topic(name, "a topic of your own: --typed-topic TEXT") for name in bundled]
    own = [replace(topic, name=topic.title) for topic in map(parse_topic, typed)]  # tables tell topics apart by name
    return tuple({topic.name: topic for topic in (*chosen, *own)}.values()) or tuple(bundled_topics().values())


def _evaluated(
    names: list[str],
    bench: "Scorer",
    options: ExperimentOptions,
    results: "AppStore",
    setup: str,
    *,
    as_json: bool,
) -> None:
    """Runs the experiments and prints each when it has finished, also where it could not be saved.

    Raises:
        StoreError: a result was printed and could not be saved.
    """
    tables: dict[str, "pd.DataFrame"] = {}
    unsaved: list[Exception] = []
    try:
        for name, made, problem in run_in_turn(names, bench, options, results, setup, stage_progress):
            tables |= made
            unsaved += [problem] if problem else []
            if not as_json:
                for printed in EXPERIMENTS[name].printed:
                    print_table(printed.of(made), as_json=False, title=printed.title)
    finally:
        if as_json and tables:
            print_json({name: frame.to_dict("records") for name, frame in tables.items()})
    if unsaved:
        raise unsaved[0]
