"""A gate's result for the terminal, for reviewers and for CI services."""
