"""A hub that does not answer, or never ends its answer: told within seconds, without a line of retries."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from huggingface_hub import constants

from core.catalog import Setup
from core.errors import AutoencoderError, EmbeddingModelError, HubError
from core.models import hub
from core.models.embeddings import load_embedding_model
from core.models.loading import load_language_model
from core.models.sparse_autoencoder import load_sparse_autoencoder


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(params=["nobody", "silent"])
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a hub that does not answer."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_asked", None)
    monkeypatch.setattr(hub, "PATIENCE_S", 1.0)
    if request.param == "nobody":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        yield "http://127.0.0.1:9 cannot be reached"
        return
    with silent_server() as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        yield f"{address} (does not answer within|cannot be reached)"


def test_hub_without_an_answer_is_told_at_once(endpoint: str, capfd: pytest.CaptureFixture[str]) -> None:
    setup = Setup(name="x", model="nobody/no-model", sae="gpt2-small-resid-post-v5-32k:blocks.6.hook_resid_post")
    started = time.monotonic()
    with pytest.raises(HubError, match=rf"cannot fetch 'nobody/no-model' \({endpoint}.*; connect, or give a folder"):
        load_language_model(setup)
    with pytest.raises(HubError, match=rf"cannot fetch SAE '.*' \({endpoint}"):
        load_sparse_autoencoder(setup)
    with pytest.raises(EmbeddingModelError, match=rf"'nobody/no-embedding': {endpoint}"):
        load_embedding_model("nobody/no-embedding")
    assert time.monotonic() - started < 60  # seconds of imports on a busy machine, none of retries
    assert "Retrying" not in capfd.readouterr().err
    assert not constants.HF_HUB_OFFLINE  # the next try may find the hub


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        (
            "google/gemma-scope-2b-pt-res",
            "is no folder; an SAE of a hub is written release:id, for example gemma-scope",
        ),
        ("gpt2-small-res-jb", "for example gpt2-small-res-jb:blocks.0.hook_resid_pre"),
        ("no-such-release:layer_5", "cannot load SAE 'no-such-release:layer_5'"),
        ("gpt2-small-res-jp:blocks.0.hook_resid_pre", "releases like it are gpt2-small-res-jb:"),
    ],
)
def test_hub_name_without_an_id_is_told_with_the_nearest_releases(sae: str, message: str) -> None:
    with pytest.raises(AutoencoderError, match=message):
        load_sparse_autoencoder(Setup(name="x", model="none", sae=sae))
