"""`python -m core`: see `core.cli`."""

import os
import sys

# errors are one line on stderr: no bars of other libraries beside them
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from core.cli import main  # after the variable, which is read at import

sys.exit(main())
