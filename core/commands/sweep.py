"""The command sweep: alpha sweeps of one or several neurons."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands.options import AsJson, SetupName, StoreDir, Tokens, app, open_store, path_option, setup_named
from core.console import print_json, print_table, stage_progress
from core.errors import UsageError
from core.settings import store_root

if TYPE_CHECKING:
    import pandas as pd

    from core.models.judge import Judge
    from core.results.app_store import AppStore
    from core.store.reader import Store
    from core.sweep.request import SweepSettings

_SHOWN = (
    *("alpha", "shift", "perplexity_ratio", "perplexity", "distinct_2", "distinct_3", "repetition"),
    *("language_switch", "confidence", "acceptability", "judge", "n_tokens", "collapsed"),
)


def _neurons(
    setup: str, store: "Store", results: "AppStore", given: list[int], tokens: list[str], random: bool, seed: int
) -> list[int]:
    """The neurons that the options name, each once; the random one is different from all others.

    Raises:
        UsageError: the options name no neuron, or an unknown token.
        NeuronRangeError: the SAE has no such neuron.
    """
    from core.sweep.request import check_neuron, random_neuron, strongest_on

    for neuron in given:
        check_neuron(neuron, store.d_sae)
    strongest = [strongest_on(results.result(setup, "special"), token, setup) for token in tokens]
    neurons = list(dict.fromkeys([*given, *strongest]))
    if random:
        neurons.append(random_neuron(store, seed, neurons))
    if not neurons:
        raise UsageError("name a neuron: --neuron NUMBER, --strongest TOKEN (of the chat template) or --random")
    return neurons


def _say_cost(judge: "Judge", n_neurons: int, settings: "SweepSettings", auto: int) -> None:
    """Says how often the judge is asked at most; `auto` is the number of alphas where none are named."""
    n_alphas = auto if settings.alphas is None else len(settings.alphas)
    requests = n_neurons * len(settings.questions) * n_alphas
    typer.echo(f"at most {requests:,} requests to {judge.model} at {judge.url}", err=True)


@app.command()
def sweep(
    setup: SetupName,
    neuron: Annotated[list[int] | None, typer.Option("--neuron", help="Neuron to amplify (repeatable).")] = None,
    strongest: Annotated[
        list[str] | None,
        typer.Option("--strongest", help="The neuron most active on this template token (repeatable); see `special`."),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="Sweep a random active neuron too, as a control.")] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Seed of the random neuron.")] = 0,
    alphas: Annotated[
        str,
        typer.Option(
            "--alphas",
            help="Start, end and step as in 0:150:25, a list as in 25,50, or auto: up to twice the mean residual norm.",
        ),
    ] = "auto",
    questions: Annotated[
        Path | None, path_option("--questions", "File of questions, instead of the ten bundled ones.")
    ] = None,
    tokens: Tokens = 64,
    judge: Annotated[
        bool, typer.Option("--judge", help="Let $STEERSCOPE_JUDGE_URL rate every answer that it has not rated yet.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Continue a sweep that was stopped.")] = True,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Amplify neurons by a range of alphas and measure the answers of a chat model."""
    from core.models.judge import judge_from_environment
    from core.results.app_store import AppStore
    from core.sweep.request import SweepSettings, check_chat, parse_alphas, read_questions

    settings = SweepSettings(alphas=parse_alphas(alphas), questions=read_questions(questions), max_new_tokens=tokens)
    chosen = setup_named(setup)
    check_chat(chosen.has_template, "an alpha sweep")
    rater = judge_from_environment() if judge else None
    opened, results = open_store(setup, store), AppStore(store_root(store))
    results.check()
    neurons = _neurons(setup, opened, results, neuron or [], strongest or [], random, seed)

    from core import api
    from core.sweep.run import AUTO_ALPHAS, MEASURES, available_measures
    from core.sweep.windows import RULES, compare_neurons, means_by_alpha

    bench = api.open_setup(setup, store=store)
    rows: dict[int, "pd.DataFrame"] = {}
    measures = available_measures(rater)
    if rater is not None:
        _say_cost(rater, len(neurons), settings, AUTO_ALPHAS)
    with stage_progress(f"Sweeping {len(neurons)} of {bench.sae.d_sae:,} neurons") as progress:
        for number in neurons:
            rows[number] = api.sweep(bench, number, settings, resume=resume, measures=measures, progress=progress)
    windows = compare_neurons(rows)
    windows.insert(1, "control", [random and number == neurons[-1] for number in neurons])
    means = {number: means_by_alpha(table) for number, table in rows.items()}
    if as_json:
        print_json(
            {
                "windows": windows.to_dict("records"),
                "means": [{"neuron": n, **line} for n, table in means.items() for line in table.to_dict("records")],
                "answers": [line for table in rows.values() for line in table.to_dict("records")],
            }
        )
        return
    for number, table in means.items():
        measured = table[list(_SHOWN)].dropna(axis="columns", how="all")
        print_table(measured, as_json=False, title=f"Neuron {number}: means over {len(settings.questions)} answers")
    print_table(windows, as_json=False, title="Windows of alpha")
    if missing := [name for name in MEASURES if name not in measures]:
        typer.echo(f"not available here: {', '.join(missing)}", err=True)
    for rule in RULES.values():
        typer.echo(rule, err=True)
