"""Charts, and every colour of the app."""
