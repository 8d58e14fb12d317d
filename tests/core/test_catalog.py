"""Setups by name: embedded, presets, and the user's own from a TOML file that is checked line by line."""

from pathlib import Path

import pytest

from core import catalog
from core.catalog import (
    DATA,
    DEFAULT_SETUP,
    EMBEDDED_LANGUAGE_MODEL,
    Setup,
    all_setups,
    find_setup,
    missing_parts,
    read_setups,
)
from core.errors import MissingFileError, SetupConfigError, UnknownSetupError

MINIMAL = '[setups.mine]\nmodel = "gpt2"\nsae = "saes/mine"\n'


def toml(folder: Path, content: str) -> Path:
    path = folder / "my.toml"
    path.write_text(content, encoding="utf-8")
    return path


def test_embedded_setups_are_the_documented_ones() -> None:
    setups = all_setups()
    embedded = {name: setup for name, setup in setups.items() if setup.origin == "embedded"}
    assert list(embedded) == [name for name, _ in catalog._EMBEDDED]
    assert DEFAULT_SETUP in embedded
    for name, setup in embedded.items():
        assert setup.model == EMBEDDED_LANGUAGE_MODEL
        assert Path(setup.sae) == DATA / "saes" / name
        assert (Path(setup.sae) / "cfg.json").is_file()
        assert setup.first_token == "<|endoftext|>"
        assert (setup.instruct, setup.chat) == (True, False)
        assert setup.title


@pytest.mark.parametrize(
    ("chat", "instruct", "expected"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_chat_and_instruct_models_have_a_template(chat: bool, instruct: bool, expected: bool) -> None:
    assert Setup(name="a", model="m", sae="s", chat=chat, instruct=instruct).has_template is expected


def test_user_setup_says_that_its_model_is_an_instruct_model(tmp_path: Path) -> None:
    setup = find_setup("mine", toml(tmp_path, MINIMAL + "instruct = true\n"))
    assert (setup.instruct, setup.chat, setup.has_template) == (True, False, True)


def test_presets_are_those_of_the_file_in_its_order() -> None:
    presets = {name: setup for name, setup in all_setups().items() if setup.origin == "preset"}
    assert list(presets) == [
        "gpt2-v5-32k-l0",
        "gpt2-v5-32k-l6",
        "gpt2-v5-128k-l6",
        "gpt2-res-jb-l6",
        "smollm2-64x-l15-mlp",
        "gemma-2-2b-l5",
        "gemma-3-270m-it-l12",
        "gemma-3-1b-it-l13",
        "gemma-3-4b-it-l17",
        "llama-3.1-8b-l5",
        "llama-3.1-8b-andyrdt-l15",
        "llama-3.1-8b-goodfire-l19",
        "qwen2.5-7b-l15",
    ]
    for name, setup in presets.items():
        assert setup.sae_is_release, name
        assert setup.title.startswith(f"{setup.model.rpartition('/')[2]}: "), name
        assert setup.n_parameters is not None, name
        # large models in half precision; models that answer in a template, through it
        assert setup.dtype == ("float32" if setup.n_parameters < 10**9 else "bfloat16"), name
        assert setup.chat is setup.model.endswith(("-Instruct", "-it")), name


def test_unknown_setup_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        UnknownSetupError, match=r"^no setup 'demo'; there are gemma.*, mine, .*, smollm2.*python -m core"
    ):
        find_setup("demo", toml(tmp_path, MINIMAL))


# ---- the user's own ----


def test_user_setup_has_its_values_and_the_defaults(tmp_path: Path) -> None:
    text = 'title = "Mine"\nhook_name = "blocks.6.hook_resid_post"\ndtype = "bfloat16"\ndevice = "cpu"\n'
    numbers = "context_size = 64\nchat = true\nn_parameters = 124\n"
    setup = find_setup("mine", toml(tmp_path, MINIMAL + text + numbers))
    assert setup == Setup(
        name="mine",
        model="gpt2",
        sae="saes/mine",
        title="Mine",
        hook_name="blocks.6.hook_resid_post",
        dtype="bfloat16",
        device="cpu",
        context_size=64,
        chat=True,
        n_parameters=124,
        origin="user",
    )
    assert find_setup("mine", toml(tmp_path, MINIMAL)) == Setup(name="mine", model="gpt2", sae="saes/mine")


def test_paths_are_relative_to_the_file_where_they_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("lm", "sae", "st", "embedded", "all-MiniLM-L6-v2"):
        (tmp_path / "deep" / folder).mkdir(parents=True)
    (tmp_path / "deep" / "p.txt").write_text("a")
    places = 'model = "lm"\nsae = "./sae"\nreference = "../deep/p.txt"\nembedding_model = "st"\n'
    path = toml(tmp_path / "deep", f'[setups.a]\n{places}[setups.b]\nmodel = "gpt2"\nsae = "release:id"\n')
    monkeypatch.chdir("/")
    a, b = read_setups(path)
    here = str(tmp_path / "deep")
    assert (a.model, a.sae, a.reference, a.embedding_model) == tuple(
        f"{here}/{x}" for x in ("lm", "sae", "p.txt", "st")
    )
    # a hub name, a release and the defaults stay what they are, whatever folders lie beside the file
    assert (b.model, b.sae, b.reference, b.embedding_model) == ("gpt2", "release:id", "embedded", "all-MiniLM-L6-v2")
    assert (a.sae_is_release, b.sae_is_release) == (False, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[setups.mine\n", "is no TOML file"),
        ("", r"has no \[setups.NAME\] table"),
        ("[models.mine]\n", r"has no \[setups.NAME\] table"),
        ("setups = 3\n", r"has no \[setups.NAME\] table"),
        ('[setups]\nmodel = "gpt2"\n', r"has no \[setups.NAME\] table"),
        ('[setups.mine]\nmodel = "gpt2"\n', r"\[setups.mine\]: the key 'sae' is missing"),
        (f'{MINIMAL}hook = "x"\n', r"\[setups.mine\]: unknown key 'hook'; it knows chat, context_size"),
        (f'{MINIMAL}origin = "preset"\n', "unknown key 'origin'"),
        ("[setups.mine]\nmodel = 3\nsae = 'x'\n", r"\[setups.mine\]: model is some text, on one line, not 3"),
        (f"{MINIMAL}hook_name = 3\n", r"\[setups.mine\]: hook_name is some text, on one line, not 3"),
        (f'{MINIMAL}chat = "yes"\n', r"\[setups.mine\]: chat is true or false, not 'yes'"),
        (f'{MINIMAL}context_size = "64"\n', r"\[setups.mine\]: context_size is a whole number from 2 up, not '64'"),
        (f"{MINIMAL}context_size = true\n", r"\[setups.mine\]: context_size is a whole number from 2 up, not True"),
        (f"{MINIMAL}context_size = 1\n", r"\[setups.mine\]: context_size is a whole number from 2 up, not 1"),
        (f"{MINIMAL}n_parameters = 1.5\n", r"\[setups.mine\]: n_parameters is a whole number from 1 up, not 1.5"),
        (f'{MINIMAL}dtype = "int8"\n', r"\[setups.mine\]: dtype is one of float32, bfloat16, float16, not 'int8'"),
        ('[setups."../mine"]\nmodel = "a"\nsae = "b"\n', "name is at most 200 letters, digits, .* not '../mine'"),
        ('[setups.""]\nmodel = "a"\nsae = "b"\n', "name is at most 200 letters, .* not ''"),
        (MINIMAL.replace("mine", "smollm2"), "the name 'smollm2' is taken by a built-in setup; choose another"),
    ],
)
def test_wrong_file_of_setups_is_named_with_its_problem(content: str, message: str, tmp_path: Path) -> None:
    path = toml(tmp_path, content)
    with pytest.raises(SetupConfigError, match=message) as caught:
        all_setups(path)
    assert str(caught.value).startswith(f"'{path}'")


def test_file_comes_from_option_then_variable_then_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "mine" not in all_setups()
    (tmp_path / "setups.toml").write_text(MINIMAL)
    assert "mine" in all_setups()
    named = toml(tmp_path, MINIMAL.replace("mine", "other"))
    monkeypatch.setenv("STEERSCOPE_SETUPS", str(named))
    assert "other" in all_setups()
    assert "mine" not in all_setups()
    assert "mine" in all_setups(tmp_path / "setups.toml")
    with pytest.raises(MissingFileError, match=r"no file '.*nothing.toml'; name a TOML file of setups"):
        all_setups(tmp_path / "nothing.toml")


# ---- what is missing ----


def complete(folder: Path, **changes: object) -> Setup:
    for name in ("lm", "sae"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "p.txt").write_text("a")
    places = {"model": str(folder / "lm"), "sae": str(folder / "sae"), "reference": str(folder / "p.txt")}
    return Setup(name="x", **{**places, **changes})  # type: ignore[arg-type]


def test_complete_setup_lacks_nothing(tmp_path: Path) -> None:
    assert missing_parts(complete(tmp_path)) == []
    assert missing_parts(complete(tmp_path, sae="release:id", reference="embedded")) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "/no/model"}, "model folder '/no/model'"),
        ({"model": "models/my/gpt2"}, "model folder 'models/my/gpt2'"),  # no hub name has three parts
        ({"model": "~/gpt2"}, "model folder '~/gpt2'"),
        ({"model": "nobody/x"}, "weights of nobody/x (not in the local hub cache: network, or a folder)"),
        ({"sae": "/no/sae"}, "SAE folder '/no/sae' (train it: python -m core train; one of a hub is release:id)"),
        ({"reference": "/no/p.txt"}, "reference prompts '/no/p.txt'"),
        ({"embedding_model": "/no/st"}, "embedding model folder '/no/st'"),
    ],
)
def test_missing_part_is_said_in_words(change: dict[str, str], words: str, tmp_path: Path) -> None:
    assert missing_parts(complete(tmp_path, **change)) == [words]


def test_cached_hub_model_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(cached))
    assert missing_parts(complete(tmp_path, model="nobody/x")) == []


def test_memory_is_missing_where_the_weights_exceed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "_available_memory", lambda: 16 * 2**30)
    huge = complete(tmp_path, n_parameters=8 * 2**30, dtype="float32")
    assert missing_parts(huge) == ["memory: 32 GiB for the weights, 16 GiB here"]
    assert missing_parts(complete(tmp_path, n_parameters=8 * 2**30, dtype="bfloat16")) == []


def test_everything_missing_is_listed(tmp_path: Path) -> None:
    setup = Setup(name="x", model="/no/model", sae="/no/sae", reference="/no/p.txt", n_parameters=10**15)
    assert [part.split()[0] for part in missing_parts(setup)] == ["model", "SAE", "reference", "memory:"]
