"""The commands of `python -m core`, by purpose. Heavy libraries are imported only when a command runs."""
