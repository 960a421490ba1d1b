"""What the user gives: models, text and experiments, checked before any work starts."""
