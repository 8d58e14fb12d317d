"""The parts of single pages, a folder for each page."""
