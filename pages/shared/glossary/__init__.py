"""The app's terms, each explained once."""
