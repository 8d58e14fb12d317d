"""The command interpret: judges rate how well neurons can be read."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.commands.options import AsJson, StoreDir, app, open_store, setup_named
from core.console import print_json, print_table, stage_progress
from core.errors import MissingFileError, UsageError
from core.settings import store_root

if TYPE_CHECKING:
    from core.interpretability.contexts import NeuronContexts
    from core.interpretability.instances import InstanceSettings
    from core.interpretability.ratings import Rated
    from core.results.ratings import RatingStore

_SHARES = ("setup", "source", "rater", "n", "share_4_5", "low", "high", "below_3", "mean", "unanswered")


@app.command()
def interpret(
    setup: Annotated[list[str], typer.Argument(help="Names of setups; `setups` lists them.")],
    neurons: Annotated[int, typer.Option("--neurons", min=1, help="Neurons to draw at random.")] = 128,
    judge: Annotated[
        str | None, typer.Option("--judge", help="OpenAI-compatible endpoint (or $STEERSCOPE_JUDGE_URL).")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="The judge's name there (or $STEERSCOPE_JUDGE_MODEL); repeatable: several judges."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the draw.")] = 0,
    instances: Annotated[
        str | None,
        typer.Option(
            "--instances",
            help="Take contexts from these texts instead of the store: a .jsonl or .txt file, or `dialogues`.",
        ),
    ] = None,
    n_instances: Annotated[int, typer.Option("--n-instances", min=5, help="With --instances: how many.")] = 10_000,
    special: Annotated[
        bool, typer.Option("--special", help="With --instances: the chat template's own tokens count, too.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Ask again about neurons without a valid answer, never about others.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    store: StoreDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a language model rate from 1 to 5 how well neurons can be read, and say in a line what each stands for.

    Every answer is saved as it comes and never asked for again: a run that was stopped goes on where it was.
    """
    from core.interpretability.ratings import Rated, carry_out, make_plan
    from core.models.judge import judge_from_environment
    from core.results.ratings import RatingStore

    setups = [setup_named(name).name for name in dict.fromkeys(setup)]
    judges = [judge_from_environment(judge, name) for name in dict.fromkeys(model or [""])]
    results = RatingStore(store_root(store))
    results.check()
    chosen = _instances(instances, n_instances, neurons, seed, special=special)
    plans = []
    for name in setups:
        with open_store(name, store) as opened:
            rated = Rated(name, opened.meta["fingerprint"])
        sample = _sample(name, store, results, neurons, seed, chosen)
        plans += [make_plan(sample, rated, one, results, again=again) for one in judges]
    for plan in plans:
        typer.echo(str(plan), err=True)
    if not dry_run:
        for plan in plans:
            with stage_progress(f"{plan.judge.model} rates {len(plan.due):,} neurons of {plan.rated.setup}") as report:
                carry_out(plan, results, report)
    _print(results, [plan.rated for plan in plans], as_json=as_json)


def _instances(file: str | None, n: int, neurons: int, seed: int, *, special: bool) -> "InstanceSettings | None":
    """The instances that the options ask for; None for the store's own contexts.

    Raises:
        UsageError: --special without --instances.
        MissingFileError: there is no such file.
    """
    if file is None:
        if special:
            raise UsageError("--special needs --instances: a store holds no activations of the template's tokens")
        return None
    from core.interpretability.instances import BUNDLED, InstanceSettings

    if file != BUNDLED and not Path(file).is_file():
        raise MissingFileError(Path(file), f"name a .jsonl or .txt file of instances, or {BUNDLED}")
    return InstanceSettings(file=file, instances=n, special=special, neurons=neurons, seed=seed)


def _sample(
    setup: str, store: Path | None, results: "RatingStore", n: int, seed: int, instances: "InstanceSettings | None"
) -> "list[NeuronContexts]":
    """The drawn neurons with their contexts."""
    from core.interpretability.contexts import contexts_from_store, drawn_from_store

    if instances is None:
        with open_store(setup, store) as opened:
            return [contexts_from_store(opened, neuron) for neuron in drawn_from_store(opened, n, seed)]
    from core import api
    from core.interpretability.instances import instance_contexts

    with stage_progress(f"Contexts of {setup}") as report:
        return instance_contexts(api.open_setup(setup, store=store), instances, results, setup, report)


def _print(results: "RatingStore", rated: "Sequence[Rated]", *, as_json: bool) -> None:
    """Prints how the setups' neurons are rated, by whom, and how far raters agree."""
    from core.interpretability.agreement import agreement, current, shares

    ratings = current(results.ratings(), {one.setup: one.fingerprint for one in rated})
    tables = {"shares": shares(ratings), "agreement": agreement(ratings)}
    if as_json:
        rows = {name: table.to_dict("records") for name, table in tables.items()}
        print_json({**rows, "ratings": ratings.to_dict("records")})
        return
    print_table(tables["shares"][list(_SHARES)], as_json=False, title="Share of neurons rated 4 or 5, 95% interval")
    if len(tables["agreement"]):
        print_table(tables["agreement"], as_json=False, title="Agreement of raters: Cohen's kappa")
