"""The commands of `python -m core`, by what they are for. What is heavy is imported when a command runs."""
