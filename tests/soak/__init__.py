"""The soak: `make soak` kills commands at random moments, fuzzes every entry, runs sessions, and watches memory.

    python -m tests.soak --minutes 30      whole
    python -m tests.soak --minutes 1       a taste: each part at least once

Everything runs on tiny checkpoints that it writes itself. It ends with a line a part and exit code 1 where anything was
lost, doubled, leaked, or ended in a traceback. The parts share the time; a part that has reached its number ends early.
"""
