"""The pages of the app: they ask core, and show."""
