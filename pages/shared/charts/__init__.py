"""Figures, and every colour of the app."""
