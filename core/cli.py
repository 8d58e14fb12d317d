"""The command line: `python -m core COMMAND --help`.

Exit codes: 0 done, 1 stopped or failed, 2 a wrong request, or data that is missing or damaged. Errors are one line on
stderr, whatever went wrong: the traceback of an error that nobody foresaw is in a file.
"""

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence

import typer

from core.commands import (  # noqa: F401 - they register their commands
    inspection,
    interpretability,
    labels,
    setups,
    steering,
    stores,
    sweep,
    training,
    vector,
)
from core.commands.options import app
from core.errors import SteerscopeError, UsageError, in_one_line
from core.validated import shown

_INTERRUPTED = 130  # typer's exit code after Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    # keep other libraries' progress bars off stderr, where errors are one line
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        _check_encoding(given)
        code = app(args=given or ["--help"], prog_name="python -m core", standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
        return int(code or 0) if given else 2
    except (KeyboardInterrupt, typer.Abort):
        print("stopped; run the same command again to continue where possible", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who read the output, such as `head`, has enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for what Python flushes at its end
        return 1
    except Exception as exc:
        problem, code = _told(exc)
        print(f"error: {' '.join(problem.split())}", file=sys.stderr)
        return code


def _check_encoding(arguments: Sequence[str]) -> None:
    """Raises UsageError where an argument or one of the program's variables is not UTF-8: no library here takes it."""
    own = {name: value for name, value in os.environ.items() if name.startswith("STEERSCOPE_")}
    for what, text in [*(("an argument", word) for word in arguments), *own.items()]:
        if text.encode("utf-8", "ignore").decode() != text:
            raise UsageError(f"{what} is not UTF-8 text: {shown(os.fsencode(text))}; write it in UTF-8")


def _told(exc: Exception) -> tuple[str, int]:
    """What to tell of an error, and the exit code."""
    if isinstance(exc, SteerscopeError):
        return str(exc), exc.exit_code
    if isinstance(exc, typer.TyperException):
        return f"{_of_option(exc)} (see --help)", 2
    if isinstance(exc, OSError) and exc.filename is not None:  # too long a name, no permission, a folder, a full disk
        return f"cannot use {shown(str(exc.filename))}: {exc.strerror}; name another place, or make this one usable", 2
    with tempfile.NamedTemporaryFile("w", prefix="steerscope-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(exc)).encode("utf-8", "backslashreplace").decode())
    return f"unforeseen, {in_one_line(exc)}; please report it with '{file.name}', which says where", 1


def _of_option(exc: typer.TyperException) -> str:
    """The option or argument that is wrong, why, and the value."""
    told = exc.format_message().strip().rstrip(".")
    found = getattr(exc.__cause__, "errors", None)  # pydantic's, which checks the types of options
    return f"{told}; it is {shown(found()[0]['input'])}" if found else told
