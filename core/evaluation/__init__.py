"""Experiments on a setup. Each returns named tables, which the commands save and print and the pages show."""
