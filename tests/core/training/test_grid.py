"""Grids: the paper's 240 jobs, refusal of wrong tables, a failing job among others, the time left."""

import json
import re
from itertools import groupby
from pathlib import Path

import pytest

from core.errors import GridError, StoreWriteError, TrainingConfigError
from core.progress import Progress
from core.results.app_store import AppStore
from core.training.autoencoder_config import AutoencoderConfig
from core.training.grid import Grid, load_grid
from core.training.grid_run import results_table, run_grid
from core.training.run import run_training
from tests.core.training.conftest import Configure

CONFIGS = Path(__file__).resolve().parents[3] / "data" / "configs"
# FAST paper, Table 1, and section 4.1: 7B and 8B at 8X alone
PAPER_LAYERS = {
    "Llama-3.1-8B-Instruct": ([4, 12, 18, 20, 25], [8]),
    "Llama-3.2-3B-Instruct": ([4, 12, 20], [8, 16]),
    "Llama-3.2-1B-Instruct": ([4, 9, 14], [8, 16]),
    "Qwen2.5-7B-Instruct": ([4, 12, 18, 20, 25], [8]),
    "Qwen2.5-3B-Instruct": ([4, 18, 32], [8, 16]),
    "Qwen2.5-1.5B-Instruct": ([4, 14, 24], [8, 16]),
    "Qwen2.5-0.5B-Instruct": ([4, 12, 20], [8, 16]),
}
PAPER_CONVERSATIONS = {
    "WildChat-1M-Full",
    "Infinity-Instruct",
    "tulu-3-sft-mixture",
    "orca-agentinstruct-1M-v1-cleaned",
    "lmsys-chat-1m",
}


def names_of(sources: tuple[object, ...]) -> set[str]:
    return {str(getattr(source, "path", "")).rpartition("/")[2] for source in sources}


def test_paper_grid_has_its_240_saes() -> None:
    jobs = load_grid(CONFIGS / "paper_grid.toml").jobs
    expected = {
        (model, f"blocks.{layer}.hook_resid_post", expansion, method, architecture)
        for model, (layers, expansions) in PAPER_LAYERS.items()
        for layer in layers
        for expansion in expansions
        for method in ("btp", "btf", "fast")
        for architecture in ("standard", "jumprelu")
    }
    got = [(j.model.rpartition("/")[2], j.hook_name, j.expansion, j.method, j.architecture) for j in jobs]
    assert len(got) == 240
    assert set(got) == expected


def test_paper_grid_has_the_papers_settings_and_data() -> None:
    for job in load_grid(CONFIGS / "paper_grid.toml").jobs:
        assert (job.tokens, job.context_size, job.max_conversation_tokens) == (40_960_000, 2_048, 8_192)
        assert job.sparsity == {"standard": 5.0, "jumprelu": 0.01}[job.architecture]
        assert (job.n_gram, job.apply_b_dec_to_input, job.normalise, job.normalise_decoder) == (20, False, False, True)
        assert (job.model_dtype, job.autocast) == ("float32", False)
        assert len({source.share for source in job.evaluation_sources}) == 1  # pooled: each set by its size
        assert names_of(job.sources) == ({"pile-uncopyrighted"} if job.method == "btp" else PAPER_CONVERSATIONS)
        assert names_of(job.evaluation_sources) == PAPER_CONVERSATIONS
        assert job.keep_special == (job.method != "btp")


BUNDLED_GRIDS = [path for path in sorted(CONFIGS.glob("*.toml")) if "[grid]" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", BUNDLED_GRIDS, ids=lambda path: path.name)
def test_bundled_grid_is_valid(path: Path) -> None:
    assert load_grid(path).jobs


# ---- parsing ----

GRID = """
[grid]
name = "g"
methods = ["btp", "fast"]
seeds = [0, 1]
[grid.settings]
tokens = 1_536
batch_size = 128
buffer_size = 512
context_size = 32
forward_tokens = 256
warmup_steps = 2
evaluation_tokens = 300
k = 4
device = "cpu"
autocast = false
[[grid.models]]
model = "{model}"
label = "tiny"
layers = [1]
expansions = [2]
[grid.models.settings]
lr = 5e-4
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


@pytest.fixture
def grid_file(tmp_path: Path, qwen2_folder: Path) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(GRID.replace("{model}", str(qwen2_folder)), encoding="utf-8")
    return path


def test_grid_spells_out_its_jobs(grid_file: Path) -> None:
    jobs = load_grid(grid_file).jobs
    assert [job.name for job in jobs] == [
        f"tiny-L1-2x-{method}-topk-seed{seed}" for method in ("btp", "fast") for seed in (0, 1)
    ]
    assert {(job.k, job.lr, job.tokens) for job in jobs} == {(3, 5e-4, 1_536)}


def test_variants_stand_beside_the_methods_with_settings_of_their_own(grid_file: Path) -> None:
    variant = '[[grid.variants]]\nname = "btp-in-template"\nmethod = "btp"\nsettings = { in_template = true }\n'
    evaluation = '[[grid.evaluation]]\npath = "judged.jsonl"\nlicence = "CC0"\nwhole = true\n'
    grid_file.write_text(grid_file.read_text() + variant + evaluation, encoding="utf-8")
    jobs = load_grid(grid_file).jobs
    assert [(job.method, job.variant, job.in_template) for job in jobs[::2]] == [
        ("btp", None, False),
        ("fast", None, False),
        ("btp", "btp-in-template", True),
    ]
    assert jobs[-1].name == "tiny-L1-2x-btp-in-template-topk-seed1"
    assert names_of(jobs[-1].sources) == {"texts.jsonl"}
    judged = {(source.path, source.whole) for job in jobs for source in job.evaluation_sources}
    assert judged == {("judged.jsonl", True)}


def test_jobs_on_the_same_activations_come_in_a_row(grid_file: Path) -> None:
    text = grid_file.read_text().replace("expansions = [2]", "expansions = [2, 4]")
    text = text.replace("layers = [1]", "layers = [0, 1]")
    text = text.replace('name = "g"', 'name = "g"\nshared_activations_gb = 0.5')
    text = text.replace("[[grid.text]]", '[[grid.architectures]]\narchitecture = "standard"\n[[grid.text]]', 1)
    grid_file.write_text(text, encoding="utf-8")
    grid = load_grid(grid_file)
    streams = [job.token_stream() for job in grid.jobs]
    assert len(streams) == 32
    assert [len(list(same)) for _, same in groupby(streams)] == [8, 8, 8, 8]
    assert len(set(streams)) == 4
    assert grid.shared_activations_bytes == 2**29


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "g"', "", "the key 'name' is missing"),
        (
            'name = "g"',
            'name = "g"\nlayer = 3',
            "unknown key 'layer'; it knows architectures, conversations, evaluation",
        ),
        ("layers = [1]", "", "models: the key 'layers' is missing"),
        ("layers = [1]", "layers = []", "has no jobs"),
        ("tokens = 1_536", "token = 3", "job 'tiny-L1-2x-btp-topk-seed0': unknown key 'token'; did you mean 'tokens'?"),
        ('["btp", "fast"]', '["slow"]', "methods, entry 1, is one of btp, btf, fast, not 'slow'"),
        ('name = "g"', 'name = "g"\njob_name = "same"', "two jobs named 'same'; set job_name"),
        ('architecture = "topk"', "", "the key 'architecture' is missing"),
        (
            'name = "g"',
            'name = "g"\nshared_activations_gb = -1',
            "shared_activations_gb is a number from 0 to 1000000, not -1",
        ),
        ('name = "g"', 'name = "g"\nshared_activations_gb = "all"', "from 0 to 1000000, not 'all'"),
    ],
)
def test_wrong_grid_is_refused(grid_file: Path, old: str, new: str, message: str) -> None:
    grid_file.write_text(grid_file.read_text().replace(old, new, 1), encoding="utf-8")
    with pytest.raises(TrainingConfigError, match=re.escape(message)):
        load_grid(grid_file)


# ---- running ----


def test_failing_job_does_not_stop_the_grid(configure: Configure, tmp_path: Path) -> None:
    jobs = tuple(configure(name=name) for name in ("a", "b", "c"))

    def train_one(config: AutoencoderConfig, progress: Progress) -> Path:
        progress("", 1.0)
        if config.name == "b":
            raise RuntimeError("CUDA out of memory\nand more")
        folder = tmp_path / config.name / "sae"
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text(json.dumps({"tokens": 300, "l0": 3.0, "mse_all": {"pooled": 0.5}}))
        return folder

    results = run_grid(Grid(name="g", jobs=jobs), tmp_path, tmp_path, train_one=train_one)
    table = results_table(results)
    assert table["error"].fillna("").tolist() == ["", "RuntimeError: CUDA out of memory", ""]
    assert table["l0"].isna().tolist() == [False, True, False]
    assert table["mse_all_pooled"].tolist()[0] == 0.5
    assert (table["tokens"].tolist()[0], table["evaluated_tokens"].tolist()[0]) == (jobs[0].tokens, 300)
    assert "train_one" in (tmp_path / "b" / "error.txt").read_text()
    assert [row["name"] for row in json.loads((tmp_path / "g.json").read_text())] == ["a", "b", "c"]


def test_grid_reports_progress_and_time_left(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("core.training.grid_run.time.perf_counter", lambda: now[0])
    (tmp_path / "a" / "sae").mkdir(parents=True)
    (tmp_path / "a" / "sae" / "README.md").touch()  # done by an earlier run: says nothing about the time a job takes
    (tmp_path / "a" / "sae" / "evaluation.json").write_text('{"tokens": 300}')

    def train_one(config: AutoencoderConfig, progress: Progress) -> Path:
        if config.name != "a":
            now[0] += 300
            progress("", 0.5)
            now[0] += 300
        return tmp_path / "a" / "sae"

    seen: list[tuple[str, float]] = []
    jobs = tuple(configure(name=name) for name in ("a", "b", "c", "d"))
    run_grid(Grid(name="g", jobs=jobs), tmp_path, tmp_path, lambda *row: seen.append(row), train_one)
    stages = dict(reversed(seen))  # the first report of each stage
    assert stages["g: job 1 of 4, a, time left unknown yet"] == 0.0
    assert stages["g: job 2 of 4, b, time left unknown yet"] == 0.25
    assert stages["g: job 2 of 4, b, about 25 min left"] == 0.375
    assert stages["g: job 4 of 4, d, about 10 min left"] == 0.75
    assert seen[-1][1] == 1.0
    assert [share for _, share in seen] == sorted(share for _, share in seen)


def test_run_training_trains_a_grid_and_copies_it_out(grid_file: Path, small_corpus: Path, tmp_path: Path) -> None:
    out, store = tmp_path / "out", tmp_path / "store"
    run_training(grid_file, small_corpus, tmp_path / "work", out, lambda stage, share: None, store)
    names = sorted(folder.name for folder in out.iterdir())
    assert names == [f"tiny-L1-2x-{method}-topk-seed{seed}" for method in ("btp", "fast") for seed in (0, 1)]
    figures = [json.loads((out / name / "evaluation.json").read_text()) for name in names]
    # every method is judged on the same held-out conversations, special tokens counted
    assert len({(f["sequences"], f["tokens"], f["ce_model"]) for f in figures}) == 1
    assert all(f["mse_special"]["tokens"] > f["mse_special_without_roles"]["tokens"] > 0 for f in figures)
    kept, losses = (AppStore(store).result("g", what) for what in ("training", "losses"))
    assert kept is not None
    assert losses is not None
    assert sorted(kept["name"]) == names
    assert kept["l0"].notna().all()
    assert set(losses["name"]) == set(names)
    assert losses.groupby("name")["step"].max().tolist() == [12] * 4


def test_results_that_cannot_be_saved_are_told_before_the_training(
    grid_file: Path, small_corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(StoreWriteError):
        run_training(grid_file, small_corpus, tmp_path / "work", None, lambda stage, share: None, tmp_path / "store")
    assert not (tmp_path / "work").exists()


def test_run_training_names_the_jobs_that_failed(grid_file: Path, small_corpus: Path, tmp_path: Path) -> None:
    grid_file.write_text(grid_file.read_text().replace("chats.jsonl", "nowhere.jsonl"), encoding="utf-8")
    with pytest.raises(GridError, match=r"4 of 4 jobs failed.*tiny-L1-2x-btp-topk-seed0: no file .*nowhere.jsonl"):
        run_training(grid_file, small_corpus, tmp_path / "work", None, lambda stage, share: None)
