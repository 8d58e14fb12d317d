"""Shared fixtures: tiny checkpoints in the real formats, written once a session. Heavy imports wait for their use."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

# set before anything imports torch or a hub client; child processes inherit them
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads slow tiny models 100 times on a busy machine
for _variable in ("STEERSCOPE_STORE", "STEERSCOPE_SETUPS"):  # a developer's own must not leak into the tests
    os.environ.pop(_variable, None)

N_REFERENCE_PROMPTS = 96


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds everything below."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def acceptability_folder(tiny_root: Path) -> Path:
    """A random classifier of acceptable English, used in place of the embedded one, which reads the real model."""
    from tests.fixtures.language_models import write_classifier

    folder = write_classifier(tiny_root / "acceptability")
    os.environ["STEERSCOPE_ACCEPTABILITY"] = str(folder)  # child processes inherit it
    return folder


@pytest.fixture(scope="session")
def gpt2_folder(tiny_root: Path) -> Path:
    """A random GPT-2: 3 blocks, d_model 32, vocabulary 512, context 256."""
    from tests.fixtures.language_models import write_gpt2

    return write_gpt2(tiny_root / "models" / "gpt2")


@pytest.fixture(scope="session")
def qwen2_folder(tiny_root: Path) -> Path:
    """A random Qwen2 chat model of the same sizes, with a chat template and a padded vocabulary."""
    from tests.fixtures.language_models import write_qwen2

    return write_qwen2(tiny_root / "models" / "qwen2")


@pytest.fixture(scope="session")
def embedding_folder(tiny_root: Path) -> Path:
    """A random sentence-transformers model of 32 dimensions."""
    from tests.fixtures.language_models import write_embedding_model

    return write_embedding_model(tiny_root / "embedding")


@pytest.fixture(scope="session")
def sae_folders(tiny_root: Path, gpt2_folder: Path, qwen2_folder: Path) -> Mapping[str, Path]:
    """SAE folders by `<model>-<architecture>`: `gpt2-topk`, `qwen2-jumprelu` ..., d_sae 192, after block 1 of 3.

    The GPT-2 ones were "trained" with a BOS token in front, the Qwen2 ones without.
    """
    from tests.fixtures.autoencoders import ARCHITECTURES, residual_stream, write_autoencoder

    folders = {}
    for model, prepend_bos in ((gpt2_folder, True), (qwen2_folder, False)):
        activations = residual_stream(model)
        for architecture in ARCHITECTURES:
            name = f"{model.name}-{architecture}"
            metadata = {"model_name": model.name, "prepend_bos": prepend_bos}
            folders[name] = write_autoencoder(
                tiny_root / "saes" / name, architecture, activations, metadata=metadata, seed=len(folders)
            )
    return folders


@pytest.fixture(scope="session")
def reference_file(tiny_root: Path) -> Path:
    """96 of the bundled reference prompts (text, task, group) as JSON lines."""
    from tests.fixtures.text import write_reference

    return write_reference(tiny_root / "reference.jsonl", N_REFERENCE_PROMPTS)


@pytest.fixture(scope="session")
def user_setups(
    tiny_root: Path,
    sae_folders: Mapping[str, Path],
    embedding_folder: Path,
    reference_file: Path,
    acceptability_folder: Path,
) -> Path:
    """A user's TOML file with one setup for each folder of `sae_folders`, of the same name; paths relative to it."""
    tables = []
    for name in sae_folders:
        model = name.split("-")[0]
        tables.append(
            f'[setups.{name}]\ntitle = "Tiny {name}"\nmodel = "models/{model}"\nsae = "saes/{name}"\n'
            f'hook_name = "blocks.1.hook_resid_post"\ndtype = "float32"\ndevice = "cpu"\n'
            f'reference = "{reference_file.name}"\nembedding_model = "{embedding_folder.name}"\n'
            f"chat = {str(model == 'qwen2').lower()}\n"
        )
    path = tiny_root / "setups.toml"
    path.write_text("\n".join(tables), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def text_folder() -> Path:
    """The folder of training text, where there is one."""
    folder = os.environ.get("STEERSCOPE_TEXT")
    if not folder:
        pytest.skip("STEERSCOPE_TEXT is not set: name the folder of training text to run this test")
    return Path(folder)
