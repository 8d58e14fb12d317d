"""The app's words, explained once."""
