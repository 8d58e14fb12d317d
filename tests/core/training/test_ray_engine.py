"""Grids on Ray: two workers of a local cluster against the local engine; jobs that fail, die or are interrupted."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file

from core.cli import main
from core.errors import EngineError, TrainingConfigError
from core.models.language_model import LanguageModel
from core.progress import Progress
from core.ray_tasks import PIN, Resources, run_tasks, slots
from core.results.app_store import AppStore
from core.training import training_text
from core.training.autoencoder_config import AutoencoderConfig
from core.training.autoencoders import train_autoencoder
from core.training.encoded_texts import EncodedTexts
from core.training.grid import Grid
from core.training.grid_run import JobResult, results_table, run_grid
from core.training.ray_engine import resources_from_table, run_grid_on_ray
from core.training.training_text import encoded_texts
from tests.core.training.conftest import Configure

ROOT = Path(__file__).resolve().parents[3]


# ---- without a cluster ----


def test_pin_is_that_of_the_requirements() -> None:
    assert PIN in (ROOT / "requirements-ray.txt").read_text().split()
    assert "-r requirements-ray.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()


@pytest.fixture
def grid_file(tmp_path: Path, qwen2_folder: Path) -> Path:
    """A grid of BT(P) and FAST on the tiny Qwen2."""
    path = tmp_path / "grid.toml"
    path.write_text(GRID.replace("MODEL", str(qwen2_folder)), encoding="utf-8")
    return path


GRID = """
[grid]
name = "g"
job_name = "{method}"
methods = ["btp", "fast"]
[grid.settings]
tokens = 1_536
batch_size = 128
buffer_size = 512
context_size = 32
forward_tokens = 256
warmup_steps = 2
evaluation_tokens = 300
device = "cpu"
[[grid.models]]
model = "MODEL"
layers = [1]
expansions = [2]
[[grid.architectures]]
architecture = "topk"
k = 3
[[grid.text]]
path = "texts.jsonl"
licence = "CC0"
[[grid.conversations]]
path = "chats.jsonl"
licence = "CC0"
"""


def command(*arguments: object) -> list[str]:
    return ["train", *map(str, arguments)]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a command that ends with 2."""
    assert main(command(*arguments)) == 2
    (line,) = [row for row in capsys.readouterr().err.splitlines() if row.startswith("error: ")]
    return line


def test_missing_ray_is_one_line(
    grid_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("core.ray_tasks", "core.training.ray_engine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refused(capsys, grid_file, "--engine", "ray")
    assert line == f"error: --engine ray needs Ray, which is not installed: pip install {PIN}"


def test_cluster_that_does_not_answer_is_named(grid_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        line = refused(capsys, grid_file, "--engine", "ray", "--address", address)
        assert f"no Ray cluster at '{address}' (ConnectionRefusedError" in line
        assert "start one (ray start --head), or leave --address out" in line
    assert "no Ray cluster at 'abc' (ValueError" in refused(capsys, grid_file, "--engine", "ray", "--address", "abc")


def test_address_wants_the_engine(grid_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "add --engine ray" in refused(capsys, grid_file, "--address", "auto")


def test_single_sae_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.toml").write_text("[autoencoder]\n")
    assert "--engine ray runs the jobs of a [grid]" in refused(capsys, tmp_path / "one.toml", "--engine", "ray")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"gpu": 1}, r"\[ray\]: unknown key 'gpu'; did you mean 'gpus'"),
        ({"cpus": 0}, "cpus is a finite number above 0, not 0"),
        ({"gpus": -1}, "gpus is a finite number from 0 up, not -1"),
        ({"cpus": True}, "cpus is a finite number above 0, not True"),
        ({"gpus": "1"}, "gpus is a finite number from 0 up, not '1'"),
        ({"gpus": 1.5}, r"gpus is a whole number where it is above 1, not 1\.5"),
    ],
)
def test_wrong_ray_table_is_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingConfigError, match=message):
        resources_from_table(table, "[ray]")


def test_ray_table_is_read() -> None:
    assert resources_from_table({}, "[ray]") == Resources(cpus=1, gpus=None)
    assert resources_from_table({"cpus": 4, "gpus": 0.5}, "[ray]") == Resources(cpus=4, gpus=0.5)


def test_texts_that_two_jobs_want_at_once_are_encoded_once(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = EncodedTexts.join(iter([(np.ones(5), np.zeros(5))]), "test")
    calls = []

    def encode(*_: object, **__: object) -> EncodedTexts:
        calls.append(time.sleep(0.3))
        return encoded

    monkeypatch.setattr(training_text, "_encode", encode)
    with ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(encoded_texts, configure(), chat_model, small_corpus, tmp_path, held_out=False)
            for _ in range(2)
        ]
    assert [len(job.result()) for job in jobs] == [1, 1]
    assert len(calls) == 1


# ---- on two workers ----


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    """A cluster of this machine with room for two jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # Ray itself gives way to whatever else runs here
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def wait_for(paths: list[Path]) -> None:
    deadline = time.monotonic() + 300  # a busy machine takes long to import what training needs
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"none of {paths} came"
        time.sleep(0.02)


def train_and_tell(text: Path, work: Path, told: Path, config: AutoencoderConfig, progress: Progress) -> Path:
    """Trains, having told its process; `a` and `b` begin together, `killed` dies in the middle of its first run."""
    with (told / config.name).open("a") as file:
        print(os.getpid(), file=file)
    if config.name in ("a", "b"):
        wait_for([told / "a", told / "b"])

    def report(stage: str, share: float) -> None:
        if config.name == "killed" and len((told / "killed").read_text().split()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    return train_autoencoder(config, text, work, report)


def weights_equal(results: list[JobResult], others: list[JobResult]) -> bool:
    """Whether two runs of a grid saved the same weights, bit by bit."""
    pairs = [
        [load_file(folder / "sae_weights.safetensors") for folder in (one.folder, other.folder) if folder is not None]
        for one, other in zip(results, others, strict=True)
    ]
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_jobs_train_side_by_side_and_failed_ones_do_not_stop_them(
    configure: Configure, small_corpus: Path, tmp_path: Path
) -> None:
    names = ("a", "b", "killed", "raises")
    jobs = tuple(configure(name=name, context_size=512 if name == "raises" else 32) for name in names)
    grid, local_grid = Grid(name="g", jobs=jobs), Grid(name="g", jobs=tuple(j for j in jobs if j.name != "raises"))
    told, work = tmp_path / "told", tmp_path / "ray"
    told.mkdir()
    train_one = partial(train_and_tell, small_corpus, work, told)

    a, b, killed, raised = run_grid_on_ray(grid, small_corpus, work, train_one=train_one)
    pids = {name: (told / name).read_text().split() for name in names}
    assert pids["a"] != pids["b"]
    assert str(os.getpid()) not in pids["a"] + pids["b"]
    assert (a.error, b.error) == (None, None)
    assert killed.error is not None
    assert killed.error.startswith("its worker process died (WorkerCrashedError)")
    assert raised.error is not None
    assert raised.error.startswith("context_size may be at most what")
    assert "died unexpectedly" in (work / "killed" / "error.txt").read_text()
    assert "TrainingConfigError" in (work / "raises" / "error.txt").read_text()

    again = run_grid_on_ray(grid, small_corpus, work, train_one=train_one)
    assert [len((told / name).read_text().split()) for name in names] == [2, 2, 2, 2]
    assert (told / "a").read_text().split()[1] == str(os.getpid())  # looked at here, sent to no worker
    assert [result.config.name for result in again if result.error] == ["raises"]
    assert not (work / "killed" / "error.txt").exists()

    local = run_grid(local_grid, small_corpus, tmp_path / "local")
    trained = [result for result in again if result.error is None]
    assert weights_equal(trained, local)
    tables = [results_table(results).drop(columns="folder") for results in (trained, local)]
    assert tables[0].to_json() == tables[1].to_json()


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_command_gives_the_results_of_the_local_engine(grid_file: Path, small_corpus: Path, tmp_path: Path) -> None:
    for engine in ("ray", "local"):
        work, store = tmp_path / engine / "work", tmp_path / engine / "store"
        options = ["--text", small_corpus, "--work", work, "--store", store, "--engine", engine]
        assert main(command(grid_file, *options)) == 0
    for what in ("training", "losses"):
        one, other = (AppStore(tmp_path / engine / "store").result("g", what) for engine in ("ray", "local"))
        assert one is not None
        assert other is not None
        assert len(one) > 0
        folders = ["folder"] if what == "training" else []
        assert one.drop(columns=folders).to_json() == other.drop(columns=folders).to_json()
    tables = [(tmp_path / engine / "work" / "saes" / "g.json").read_text() for engine in ("ray", "local")]
    assert tables[0].replace(r"\/ray\/", r"\/local\/") == tables[1]


def sleep(told: Path, name: str, seconds: float) -> str:
    (told / name).write_text(str(os.getpid()))
    time.sleep(seconds)
    return name


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_interrupted_tasks_are_stopped(tmp_path: Path) -> None:
    def watch(ended: set[int]) -> None:
        if ended and (tmp_path / "long").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks(sleep, [(tmp_path, "short", 0.0), (tmp_path, "long", 300.0)], Resources(), watch)
    pid = int((tmp_path / "long").read_text())
    deadline = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_more_than_the_cluster_has_is_refused() -> None:
    assert slots(Resources()) == 2
    with pytest.raises(EngineError, match=r"asks for 1 CPUs and 3 GPUs, and no machine .* \(2 CPUs and 0 GPUs\)"):
        run_tasks(len, [((),)], Resources(gpus=3))
