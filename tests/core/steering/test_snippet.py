"""Scripts of ways of steering, run in a process that knows nothing of this project, write the same texts."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from core.errors import EditError
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder
from core.results.export import export_table
from core.settings import GenerationSettings
from core.steering.edits import make_edit
from core.steering.generation import Generator
from core.steering.placement import PlacedEdit, placed_edit
from core.steering.settings import Positions
from core.steering.snippet import SCORES_FILE, python_snippet
from core.steering.ways import Way
from tests.fixtures.edits import some_scores

PROMPT = "My heart is broken, so I should"
SAMPLED = GenerationSettings(max_new_tokens=8, seed=3, temperature=1.2)
# one process runs every script: loading the libraries takes longer than all of them
DRIVER = """
import contextlib, io, json, os, runpy, sys
texts = {}
for folder in sys.argv[1:]:
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runpy.run_path("script.py")
    texts[folder] = printed.getvalue().removesuffix("\\n")
assert not any(name == "core" or name.startswith("core.") for name in sys.modules)
print(json.dumps(texts))
"""


@dataclass(frozen=True)
class Case:
    sae: str
    edits: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  # of make_edit
    positions: Positions | None = None
    prefix: str = ""
    prompt: str = PROMPT
    generation: GenerationSettings = SAMPLED
    hook_name: str = "blocks.1.hook_resid_post"
    skip_first: bool = False
    model: str = ""  # fixture; by default as the SAE is named

    @property
    def model_name(self) -> str:
        return self.model or self.sae.split("-")[0]

    def parts(self, saes: Mapping[str, SparseAutoencoder]) -> tuple[SparseAutoencoder, Way]:
        sae = replace(saes[self.sae], hook_name=self.hook_name, skip_first=self.skip_first)
        options = {
            "score": some_scores(sae),
            "reference_max": torch.linspace(0.3, 0.6, sae.d_sae),
            "alphas": {3: 4.0, 7: -2.5},
            "direction": torch.linspace(-1, 1, sae.d_in),
            "alpha": 1.5,
            **self.options,
        }
        placed: list[PlacedEdit] = []
        for name in self.edits:
            placed += placed_edit(make_edit(name, sae, **options), self.positions)  # type: ignore[arg-type]
        return sae, Way("+".join(self.edits) or "none", tuple(placed), self.prefix)


CASES = {
    "none": Case("gpt2-topk", ()),
    "greedy": Case("gpt2-topk", (), generation=GenerationSettings(max_new_tokens=8, greedy=True)),
    "prompt": Case("gpt2-topk", (), prefix="Write about 'law': "),
    "sae": Case("gpt2-standard", ("sae",)),
    "sae but for the first position": Case("gpt2-standard", ("sae",), skip_first=True),
    "clamp": Case("gpt2-topk", ("clamp",), {"n": 3}),
    "clamp current": Case("gpt2-jumprelu", ("clamp",), {"current": True, "multiplier": 3.0, "keep_error": True}),
    "swap": Case("gpt2-topk", ("swap",)),
    "swap sharper": Case("gpt2-topk", ("swap",), {"sharpness": 2.5}),
    "swap jumprelu sharper": Case("qwen2-jumprelu", ("swap",), {"matched_count": True, "sharpness": 3.0}),
    "swap keep error": Case("gpt2-topk", ("swap",), {"keep_error": True}, "generated"),
    "swap within reach": Case("gpt2-topk", ("swap",), {"reach": 0.97}),
    "swap jumprelu matched": Case("qwen2-jumprelu", ("swap",), {"matched_count": True}),
    "swap gated": Case("gpt2-gated", ("swap",)),
    "swap gated matched": Case("gpt2-gated", ("swap",), {"matched_count": True, "keep_error": True}),
    "swap abstopk within reach": Case("gpt2-abstopk", ("swap",), {"reach": 0.9}, "all"),
    "weight": Case("qwen2-gated", ("weight",), {}, "all"),
    "add": Case("qwen2-topk", ("add",), {}, "assistant"),
    "add before a block": Case("gpt2-topk", ("add",), hook_name="blocks.2.hook_resid_pre"),
    "vector": Case("gpt2-topk", ("vector",), {}, "prompt"),
    "swap+add": Case("qwen2-topk", ("swap", "add"), {}, "special"),
    "special tokens as text": Case("qwen2-topk", ("sae",), prompt="<|im_end|> is a token; <|im_start|> too"),
    "plain text of a chat model": Case("qwen2-topk", ("swap",), generation=replace(SAMPLED, chat=False)),
    "plain text of an instruct model": Case("qwen2-topk", ("add",), model="instruct"),
    "chat of an instruct model": Case(
        "qwen2-topk", ("add",), {}, "user", generation=replace(SAMPLED, chat=True), model="instruct"
    ),
}


@pytest.fixture(scope="module")
def models(gpt2: LanguageModel, qwen2: LanguageModel, instruct: LanguageModel) -> Mapping[str, LanguageModel]:
    return {"gpt2": gpt2, "qwen2": qwen2, "instruct": instruct}


@pytest.fixture(scope="module")
def printed(
    models: Mapping[str, LanguageModel],
    saes: Mapping[str, SparseAutoencoder],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, str]:
    """What the script of each case prints."""
    root = tmp_path_factory.mktemp("scripts")
    for name, case in CASES.items():
        folder = root / name.replace(" ", "-")
        folder.mkdir()
        sae, way = case.parts(saes)
        snippet = python_snippet(models[case.model_name], sae, way, case.prompt, case.generation)
        (folder / "script.py").write_text(snippet.code, encoding="utf-8")
        for file, table in snippet.files.items():
            export_table(table, folder / file)
    folders = [str(root / name.replace(" ", "-")) for name in CASES]
    command = [sys.executable, "-I", "-c", DRIVER, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    texts = json.loads(done.stdout.splitlines()[-1])
    return {name: texts[folder] for name, folder in zip(CASES, folders, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_script_writes_the_same_text(
    name: str,
    printed: dict[str, str],
    models: Mapping[str, LanguageModel],
    saes: Mapping[str, SparseAutoencoder],
) -> None:
    case = CASES[name]
    _, way = case.parts(saes)
    plain, steered = (
        Generator(
            models[case.model_name], [case.prompt], placed, case.generation, prefixes=[prefix], measure=False
        ).finish()[0]
        for placed, prefix in (((), ""), (way.placed, way.prefix))
    )
    assert printed[name] == steered.text
    assert (steered.ids != plain.ids) == bool(way.placed or way.prefix)  # the way makes a difference


def test_script_names_what_it_steers_with(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    def code(name: str) -> str:
        sae, way = CASES[name].parts(saes)
        return python_snippet(gpt2, sae, way, PROMPT, SAMPLED).code

    assert "SAE" not in code("none").split("print")[0].split("\n", 1)[1]
    assert "torch.tensor([4.0, -2.5]) @ sae.W_dec[[3, 7]]" in code("add before a block")
    best = some_scores(saes["gpt2-topk"]).argsort(descending=True)[:3].tolist()
    assert f"a[:, {best}] = torch.tensor(" in code("clamp")
    assert SCORES_FILE in code("swap")
    assert SCORES_FILE not in code("clamp")
    assert saes["gpt2-topk"].name in code("clamp")


def test_scores_beside_the_script_are_the_scored_neurons(
    gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]
) -> None:
    sae = saes["gpt2-topk"]
    score = some_scores(sae)
    score[:100] = 0
    files = python_snippet(gpt2, sae, Way.of(make_edit("swap", sae, score=score)), PROMPT, SAMPLED).files
    scores = files[SCORES_FILE]
    assert scores["neuron"].tolist() == list(range(100, sae.d_sae))
    assert torch.equal(torch.tensor(scores["score"].tolist()), score[100:])


def test_script_of_several_layers_is_refused(gpt2: LanguageModel, saes: Mapping[str, SparseAutoencoder]) -> None:
    sae = saes["gpt2-topk"]
    later = make_edit("sae", replace(sae, hook_name="blocks.2.hook_resid_post"))
    with pytest.raises(EditError, match="a script shows edits at one layer"):
        python_snippet(gpt2, sae, Way.of(later), PROMPT, SAMPLED)
