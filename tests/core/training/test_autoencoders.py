"""One training run: initialisation, parity with sae_lens, resumption, the saved folder, errors that leave it intact."""

import json
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from sae_lens import SAE
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file
from torch import Tensor

from core.errors import CheckpointError, TrainingConfigError
from core.models.language_model import LanguageModel
from core.training import checkpoints
from core.training.autoencoder_config import AutoencoderConfig
from core.training.autoencoders import AutoencoderRun, initialise_from_activations, new_autoencoder, new_trainer
from core.training.autoencoders import train_autoencoder as train
from core.training.checkpoints import latest_checkpoint
from core.training.geometric_median import geometric_median
from core.training.training_text import token_batches
from core.training.unit_decoder import keep_decoder_direction, normalise_decoder
from tests.core.training.conftest import Configure

ARCHITECTURES = ("standard", "jumprelu", "topk", "gated", "batchtopk")


class KilledError(Exception):
    pass


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "sae_weights.safetensors")


def killed_at(step: int, config: AutoencoderConfig, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    """Trains until just after that step, and no further: nothing is saved on the way out."""
    original = AutoencoderRun._log_row
    monkeypatch.setattr("core.training.autoencoders._LOG_EVERY_STEPS", 1)

    def log_row(self: AutoencoderRun, output: Any) -> dict[str, float]:
        if self.trainer.n_training_steps == step:
            raise KilledError
        return original(self, output)

    monkeypatch.setattr(AutoencoderRun, "_log_row", log_row)
    with pytest.raises(KilledError):
        train(config, *arguments)
    monkeypatch.setattr(AutoencoderRun, "_log_row", original)


# ---- initialisation ----


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoder_starts_at_unit_norm_and_biases_at_zero(configure: Configure, architecture: str) -> None:
    sae = new_autoencoder(configure(architecture=architecture), d_in=16)
    assert sae.W_dec.shape == (64, 16)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))
    biases = [value for name, value in sae.named_parameters() if name.startswith("b_")]
    assert len(biases) >= 2
    assert all((bias == 0).all() for bias in biases)
    torch.testing.assert_close(torch.nn.functional.cosine_similarity(sae.W_enc.T, sae.W_dec), torch.ones(64))


def test_decoder_directions_are_kaiming_uniform(configure: Configure) -> None:
    torch.manual_seed(0)
    expected = torch.nn.init.kaiming_uniform_(torch.empty(64, 16))
    before = torch.random.get_rng_state()
    sae = new_autoencoder(configure(seed=0, architecture="standard"), d_in=16)
    torch.testing.assert_close(sae.W_dec.data, expected / expected.norm(dim=1, keepdim=True))
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's generator is left alone


def test_jumprelu_keeps_the_reconstruction_that_its_rows_had(configure: Configure) -> None:
    config = configure(architecture="jumprelu", initial_threshold=0.3, seed=4)
    torch.manual_seed(4)
    raw = torch.nn.init.kaiming_uniform_(torch.empty(64, 16))
    sae = new_autoencoder(config, d_in=16)
    torch.testing.assert_close(sae.threshold.data, 0.3 * raw.norm(dim=1))
    x = torch.randn(50, 16)
    pre = x @ raw.T
    torch.testing.assert_close(sae.decode(sae.encode(x)), (pre * (pre > 0.3)) @ raw)


def test_decoder_bias_starts_at_the_median_of_scaled_activations(configure: Configure) -> None:
    sample = 7 + 3 * torch.randn(200, 16)
    for normalise in (True, False):
        config = configure(normalise=normalise)
        trainer = new_trainer(config, new_autoencoder(config, d_in=16))
        initialise_from_activations(trainer, sample, config)
        scale = 4 / sample.norm(dim=1).mean() if normalise else torch.tensor(1.0)
        torch.testing.assert_close(trainer.sae.b_dec.data, geometric_median(sample * scale))
        assert (trainer.activation_scaler.scaling_factor or 1.0) == pytest.approx(scale.item())


# ---- parity ----


def loss_by_hand(weights: dict[str, Tensor], x: Tensor, config: AutoencoderConfig) -> Tensor:
    """FAST paper, Eq. 1-6: squared error plus lambda times the L1 or L0 norm, the mean over the batch."""
    pre = x @ weights["W_enc"] + weights["b_enc"]
    norms = weights["W_dec"].norm(dim=1)
    if config.architecture == "standard":
        a = pre.clamp(min=0)
        sparsity = (a * norms).sum(1)
    else:
        a, gate = jump(pre, weights["threshold"], config.bandwidth)
        sparsity = gate.sum(1)
    error = (x - a @ weights["W_dec"] - weights["b_dec"]).pow(2).sum(1)
    return (error + config.sparsity * sparsity).mean()


def jump(pre: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    """JumpReLU and its gate; gradients to the threshold through a rectangle of the bandwidth's width."""
    open_gate = (pre > threshold).to(pre)
    near = (((pre - threshold) / bandwidth).abs() < 0.5).to(pre).detach()
    # value 0, gradient -near/bandwidth to the threshold: the pseudo-derivative of the step
    step = -(near / bandwidth) * (threshold - threshold.detach())
    return pre * open_gate + threshold.detach() * step, open_gate + step


@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_loss_and_gradients_equal_sae_lens_and_the_formula(configure: Configure, architecture: str) -> None:
    config = configure(architecture=architecture, sparsity=0.7, bandwidth=0.4, initial_threshold=0.2, normalise=False)
    torch.manual_seed(0)
    x = 1 + torch.randn(256, 16)
    ours = new_autoencoder(config, d_in=16)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    names = {"standard": ("Standard", "l1"), "jumprelu": ("JumpReLU", "l0")}[architecture]
    extra = {} if architecture == "standard" else {"jumprelu_bandwidth": 0.4}
    settings = getattr(sae_lens, f"{names[0]}TrainingSAEConfig")(
        d_in=16, d_sae=64, apply_b_dec_to_input=False, **{f"{names[1]}_coefficient": 0.7}, **extra
    )
    theirs = getattr(sae_lens, f"{names[0]}TrainingSAE")(settings)
    theirs.load_state_dict(ours.state_dict())
    step = TrainStepInput(
        sae_in=x, coefficients={names[1]: 0.7}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
    )
    by_hand = {name: value.detach().clone().requires_grad_() for name, value in ours.named_parameters()}

    our_loss = ours.training_forward_pass(step).loss
    their_loss = theirs.training_forward_pass(step).loss
    hand_loss = loss_by_hand(by_hand, x, config)
    for loss in (our_loss, their_loss, hand_loss):
        loss.backward()

    assert torch.equal(our_loss, their_loss)
    torch.testing.assert_close(our_loss, hand_loss)
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter.grad, dict(theirs.named_parameters())[name].grad), name
        torch.testing.assert_close(parameter.grad, by_hand[name].grad, rtol=1e-4, atol=1e-4)
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("apply_b_dec_to_input", [False, True])
@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_topk_equals_sae_lens(configure: Configure, architecture: str, apply_b_dec_to_input: bool) -> None:
    config = configure(architecture=architecture, k=6, apply_b_dec_to_input=apply_b_dec_to_input)
    ours = new_autoencoder(config, d_in=16).to(dtype=torch.float64)
    names = {"topk": "TopK", "batchtopk": "BatchTopK"}[architecture]
    settings = getattr(sae_lens, f"{names}TrainingSAEConfig")(
        d_in=16, d_sae=64, k=6, apply_b_dec_to_input=apply_b_dec_to_input, dtype="float64"
    )
    theirs = getattr(sae_lens, f"{names}TrainingSAE")(settings)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.3 * torch.randn_like(parameter)  # rows of any norm
    theirs.load_state_dict(ours.state_dict())
    step = TrainStepInput(
        sae_in=1 + torch.randn(600, 16, dtype=torch.float64),
        coefficients={},
        dead_neuron_mask=torch.arange(64) % 5 == 0,
        n_training_steps=0,
        is_logging_step=False,
    )
    output, expected = [sae.training_forward_pass(step) for sae in (ours, theirs)]
    for one in (output, expected):
        one.loss.backward()
    torch.testing.assert_close(output.loss, expected.loss)
    torch.testing.assert_close(output.sae_out, expected.sae_out)
    torch.testing.assert_close(output.feature_acts.to_dense(), expected.feature_acts.to_dense(), check_device=False)
    assert output.losses["auxiliary_reconstruction_loss"] > 0
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, dict(theirs.named_parameters())[name].grad)


def test_decoder_rows_keep_unit_norm_where_asked(configure: Configure) -> None:
    x = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    sae = new_autoencoder(configure(architecture="standard", normalise_decoder=True), d_in=32)
    keep_decoder_direction(sae)
    loss = (sae.decode(sae.encode(x)) - x).pow(2).sum()
    (free,) = torch.autograd.grad(loss, sae.W_dec)
    loss = (sae.decode(sae.encode(x)) - x).pow(2).sum()
    loss.backward()
    rows = sae.W_dec.detach()
    expected = torch.stack([g - torch.dot(g, w) * w for g, w in zip(free, rows, strict=True)])
    torch.testing.assert_close(sae.W_dec.grad, expected, rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2.0, len(rows))[:, None]
    normalise_decoder(sae)
    torch.testing.assert_close(sae.W_dec.detach(), rows)


def test_width_need_be_no_multiple_of_d_in(configure: Configure) -> None:
    assert new_autoencoder(configure(d_sae=50), d_in=16).cfg.d_sae == 50


# ---- runs ----


def test_weights_are_saved_in_the_dtype_asked_for(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, work_folder: Path
) -> None:
    config = configure(saved_dtype="bfloat16", name="half")
    half = train(config, small_corpus, work_folder, model=chat_model)
    whole = train(configure(name="whole"), small_corpus, work_folder, model=chat_model)
    stored, full = (load_file(folder / "sae_weights.safetensors") for folder in (half, whole))
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    for name, tensor in stored.items():
        assert torch.equal(tensor, full[name].to(torch.bfloat16))
    loaded = SAE.load_from_disk(half)
    assert loaded.W_dec.dtype == torch.float32
    assert torch.equal(loaded.W_dec, stored["W_dec"].float())
    figures = [json.loads((folder / "evaluation.json").read_text())["explained_variance"] for folder in (half, whole)]
    assert figures[0] != figures[1]  # measured on what was saved
    assert figures[0] == pytest.approx(figures[1], abs=0.02)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_run_saves_an_sae_that_sae_lens_reads(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, work_folder: Path, architecture: str
) -> None:
    config = configure(architecture=architecture)
    folder = train(config, small_corpus, work_folder, model=chat_model)
    sae = SAE.load_from_disk(folder)
    assert sae.cfg.architecture() == {"batchtopk": "jumprelu"}.get(architecture, architecture)
    assert sae.cfg.normalize_activations == "none"
    assert sae.cfg.metadata.hook_name == config.hook_name
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(128))
    rows = [json.loads(line) for line in (work_folder / "tiny" / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 12]
    figures = json.loads((folder / "evaluation.json").read_text())
    assert 0 < figures["l0"] <= 128
    card = (folder / "README.md").read_text()
    assert f"{12 * 128:,} activations" in card
    assert "`texts.jsonl` | CC0" in card
    assert json.loads((folder / "text.json").read_text()) == {"duplicates": 0, "conversations_read": 0}  # plain text


def test_folding_leaves_the_trained_function_as_it_was(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, work_folder: Path
) -> None:
    for architecture in ARCHITECTURES[:4]:
        config = configure(architecture=architecture, name=architecture)
        batches = token_batches(config, chat_model, small_corpus, work_folder / "texts")
        run = AutoencoderRun(config, chat_model, batches, work_folder / architecture)
        run.train(lambda stage, share: None)
        x, scale = run.buffer.sample(64), run.trainer.activation_scaler.scaling_factor
        with torch.no_grad():
            run.trainer.sae.eval()
            expected = run.trainer.sae(x * scale) / scale
            run.save_inference_model(work_folder / "saved")
            torch.testing.assert_close(SAE.load_from_disk(work_folder / "saved")(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu"])
@pytest.mark.parametrize("method", ["btp", "btf", "fast"])
def test_killed_run_ends_with_the_weights_of_an_unbroken_one(
    configure: Configure,
    chat_model: LanguageModel,
    small_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    architecture: str,
) -> None:
    config = configure(method=method, architecture=architecture, keep_special=method != "btp")
    unbroken = train(config, small_corpus, tmp_path / "unbroken", model=chat_model)
    for step in (2, 5, 9):
        killed_at(step, config, monkeypatch, small_corpus, tmp_path / "killed", lambda *_: None, chat_model)
    resumed = train(config, small_corpus, tmp_path / "killed", model=chat_model)
    expected, got = weights_of(unbroken), weights_of(resumed)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    logged = [json.loads(line)["step"] for line in (tmp_path / "killed/tiny/losses.jsonl").read_text().splitlines()]
    assert logged == sorted(set(logged))
    assert (resumed / "evaluation.json").read_text() == (unbroken / "evaluation.json").read_text()


def test_other_seed_gives_other_weights(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, work_folder: Path
) -> None:
    first = train(configure(name="a", seed=0), small_corpus, work_folder, model=chat_model)
    second = train(configure(name="b", seed=1), small_corpus, work_folder, model=chat_model)
    assert not torch.equal(weights_of(first)["W_dec"], weights_of(second)["W_dec"])


def test_finished_run_is_left_as_it_is(
    configure: Configure, chat_model: LanguageModel, small_corpus: Path, work_folder: Path
) -> None:
    folder = train(configure(), small_corpus, work_folder, model=chat_model)
    (folder / "README.md").write_text("mine")
    train(configure(), small_corpus, work_folder, model=chat_model)
    assert (folder / "README.md").read_text() == "mine"
    assert not (work_folder / "tiny" / "checkpoints").exists()
    with pytest.raises(TrainingConfigError, match=r"another seed \(0, now 1\)"):
        train(configure(seed=1), small_corpus, work_folder, model=chat_model)


def test_run_killed_while_it_is_evaluated_is_finished_later(
    configure: Configure,
    chat_model: LanguageModel,
    small_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KilledError

    monkeypatch.setattr("core.training.autoencoders.evaluate_autoencoder", killed)
    with pytest.raises(KilledError):
        train(configure(), small_corpus, tmp_path / "killed", model=chat_model)
    assert not (tmp_path / "killed" / "tiny" / "sae").exists()
    monkeypatch.undo()
    resumed, unbroken = (
        train(configure(), small_corpus, tmp_path / name, model=chat_model) for name in ("killed", "unbroken")
    )
    assert torch.equal(weights_of(resumed)["W_enc"], weights_of(unbroken)["W_enc"])
    assert {file.name for file in resumed.iterdir()} == {
        "cfg.json",
        "sae_weights.safetensors",
        "training.json",
        "evaluation.json",
        "text.json",
        "README.md",
    }


# ---- faults ----


def test_full_disk_leaves_the_earlier_checkpoint(
    configure: Configure,
    chat_model: LanguageModel,
    small_corpus: Path,
    work_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = checkpoints.save_file, []

    def save_file(tensors: dict[str, Tensor], path: Path) -> None:
        calls.append(path)
        if len(calls) > 3:  # in the middle of the second checkpoint
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", save_file)
    with pytest.raises(CheckpointError, match=r"No space left.*step-3' is intact; free space and run"):
        train(configure(), small_corpus, work_folder, model=chat_model)
    kept = work_folder / "tiny" / "checkpoints"
    assert [p.name for p in kept.iterdir()] == ["step-3"]

    monkeypatch.setattr(checkpoints, "save_file", real)
    resumed = train(configure(), small_corpus, work_folder, model=chat_model)
    other = train(configure(name="other"), small_corpus, work_folder, model=chat_model)
    assert torch.equal(weights_of(resumed)["W_dec"], weights_of(other)["W_dec"])


def test_full_disk_while_losses_are_logged_is_named(
    configure: Configure,
    chat_model: LanguageModel,
    small_corpus: Path,
    work_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AutoencoderRun, "_log_row", full)
    with pytest.raises(CheckpointError, match=r"No space left.*step-9' is intact"):
        train(configure(), small_corpus, work_folder, model=chat_model)


def test_checkpoint_of_other_settings_is_refused(
    configure: Configure,
    chat_model: LanguageModel,
    small_corpus: Path,
    work_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    killed_at(5, configure(), monkeypatch, small_corpus, work_folder, lambda *_: None, chat_model)
    with pytest.raises(TrainingConfigError, match=r"another lr \(0.001, now 0.002\); restore it, give"):
        train(configure(lr=2e-3), small_corpus, work_folder, model=chat_model)


def test_partial_checkpoint_is_never_the_latest(tmp_path: Path) -> None:
    for name in ("step-9", "step-10", "checkpoint.partial", "step-11.partial"):
        (tmp_path / name).mkdir()
    latest = latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.name == "step-10"
