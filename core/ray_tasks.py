"""Runs functions as tasks on a Ray cluster, of this machine alone or of several that share the working folder.

The only module that imports ray; it is itself imported only with `--engine ray`.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from core.errors import EngineError, SettingsError, in_one_line
from core.validated import NotNegative, Positive, validated

PIN = "ray==2.60.0"  # as in requirements-ray.txt

try:
    import ray
    from ray.exceptions import RayError
except ModuleNotFoundError as exc:
    raise EngineError(f"--engine ray needs Ray, which is not installed: pip install {PIN}") from exc

T = TypeVar("T")

_ROOT = Path(__file__).resolve().parent.parent
_CONNECT_TIMEOUT_S = 5.0
_POLL_S = 0.5
_SEEN_WITHIN_S = 90.0  # on a network disk, another machine may see a new file a minute late
_HOST_AND_PORT = re.compile(r"(?:ray://)?\[?(?P<host>[^\[\]/]+)\]?:(?P<port>\d+)")


@validated(SettingsError)
class Resources:
    """CPUs and GPUs that one task reserves on its machine."""

    cpus: Positive = 1
    gpus: NotNegative | None = None  # None: 1 if any machine of the cluster has a GPU, else 0; a fraction shares one

    def __post_init__(self) -> None:
        if self.gpus is not None and self.gpus > 1 and self.gpus % 1:
            raise SettingsError(f"gpus is a whole number where it is above 1, not {self.gpus}: Ray shares single GPUs")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """Result of one task: its value, or its error."""

    value: T | None
    error: str | None = None  # one line
    details: str = ""  # the traceback


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Connects to a Ray cluster; a connection that already exists is reused and left open.

    Args:
        address: None starts a cluster of this machine alone, for as long as the context lasts; 'auto' finds the one
            that `ray start` began here; else `host:port` of the head, or `ray://host:port` of a Ray Client server.

    Raises:
        EngineError: no cluster answers there.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address and (parts := _HOST_AND_PORT.fullmatch(address)):  # Ray would try for minutes
            socket.create_connection((parts["host"], int(parts["port"])), _CONNECT_TIMEOUT_S).close()
        ray.init(
            address or "local",
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": str(_ROOT)}},  # workers find `core` wherever Ray was started
        )
    except (OSError, RuntimeError, ValueError, ImportError, RayError) as exc:
        raise EngineError(
            f"no Ray cluster at '{address or 'local'}' ({in_one_line(exc)}); start one (ray start --head), or leave "
            f"--address out to use this machine alone; see docs/training.md"
        ) from exc
    try:
        yield
    finally:
        ray.shutdown()


def run_tasks(
    function: Callable[..., T],
    arguments: Sequence[tuple[Any, ...]],
    resources: Resources,
    watch: Callable[[set[int]], None] = lambda ended: None,
) -> list[Outcome[T]]:
    """Runs `function` once per row of arguments, as many at a time as fit; returns the outcomes in the same order.

    A task that raises, or whose process dies, does not stop the others and is not run again. Tasks run in this
    process's working folder. If this function is interrupted, for example by Ctrl-C, unfinished tasks are killed.

    Args:
        watch: called with the indices of the finished tasks, at least twice a second.

    Raises:
        EngineError: no machine of the cluster has what one task asks for.
    """
    cpus, gpus = resources.cpus, _gpus(resources)
    _check_room(cpus, gpus)
    task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_in_folder)
    numbers = {task.remote(Path.cwd(), function, row): number for number, row in enumerate(arguments)}
    outcomes: dict[int, Outcome[T]] = {}
    waiting = list(numbers)
    try:
        while waiting:
            ended, waiting = ray.wait(waiting, timeout=_POLL_S)
            outcomes |= {numbers[ref]: _outcome(ref) for ref in ended}
            watch(set(outcomes))
    finally:
        for ref in waiting:
            ray.cancel(ref, force=True)
    return [outcomes[number] for number in range(len(arguments))]


def slots(resources: Resources) -> int:
    """How many tasks the cluster can run at once; at least 1."""
    gpus = _gpus(resources)
    by_machine = (
        min(machine.get("CPU", 0) // resources.cpus, machine.get("GPU", 0) // gpus if gpus else math.inf)
        for machine in _machines()
    )
    return max(1, int(sum(by_machine)))


def seen_here(what: Callable[[], bool]) -> bool:
    """Waits until `what` is true of files that workers wrote; False if it is not within `_SEEN_WITHIN_S` seconds."""
    deadline = time.monotonic() + _SEEN_WITHIN_S
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _in_folder(folder: Path, function: Callable[..., T], arguments: tuple[Any, ...]) -> Outcome[T]:
    """Runs on a worker. Errors are returned as text, because not every exception can be pickled."""
    try:
        if not folder.is_dir():
            raise EngineError(
                f"{socket.gethostname()} has no folder '{folder}'; the machines of a cluster share the working folder"
            )
        os.chdir(folder)
        return Outcome(function(*arguments))
    except Exception as exc:  # a failed task must not stop the others
        return Outcome(None, in_one_line(exc), traceback.format_exc())


def _outcome(ref: Any) -> Outcome[Any]:
    try:
        outcome: Outcome[Any] = ray.get(ref)
    except RayError as exc:
        error = f"its worker process died ({type(exc).__name__}): killed, or out of memory"
        return Outcome(None, error, str(exc))
    return outcome


def _machines() -> list[dict[str, float]]:
    """Total resources of each live machine of the cluster, in use or not."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _gpus(resources: Resources) -> float:
    if resources.gpus is not None:
        return resources.gpus
    return 1 if any(machine.get("GPU", 0) >= 1 for machine in _machines()) else 0


def _check_room(cpus: float, gpus: float) -> None:
    machines = [(machine.get("CPU", 0), machine.get("GPU", 0)) for machine in _machines()]
    if not any(cpus <= has_cpus and gpus <= has_gpus for has_cpus, has_gpus in machines):
        there = "; ".join(f"{has_cpus:g} CPUs and {has_gpus:g} GPUs" for has_cpus, has_gpus in machines)
        raise EngineError(
            f"a task asks for {cpus:g} CPUs and {gpus:g} GPUs, and no machine of the cluster has them ({there}); "
            f"ask for less, or add a machine"
        )
