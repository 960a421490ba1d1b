"""Tasks of lm-eval: their questions, their answers and their scores."""
