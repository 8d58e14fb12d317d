"""Experiments on a setup: each returns a table, which the commands store and the pages show."""
