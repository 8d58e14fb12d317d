"""The command line: `python -m core COMMAND --help`.

Exit codes: 0 done, 1 stopped or failed, 2 a wrong request, or data that is missing or damaged. Errors are one line on
stderr.
"""

import os
import sys
from collections.abc import Sequence

import typer

from core.commands import (  # noqa: F401 - they register their commands
    inspection,
    interpretability,
    labels,
    steering,
    stores,
    sweep,
    training,
)
from core.commands.options import app
from core.errors import SteerscopeError

_INTERRUPTED = 130  # typer's exit code after Ctrl-C


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    # keep other libraries' progress bars off stderr, where errors are one line
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
    except SteerscopeError as exc:
        problem = " ".join(str(exc).split())
    except typer.TyperException as exc:
        problem = f"{' '.join(str(exc).split())} (see --help)"
    except (KeyboardInterrupt, typer.Abort):
        print("stopped; run the same command again to continue where possible", file=sys.stderr)
        return 1
    else:
        return int(code or 0)
    print(f"error: {problem}", file=sys.stderr)
    return 2
