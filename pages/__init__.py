"""The pages of the app: they call core and show the results."""
