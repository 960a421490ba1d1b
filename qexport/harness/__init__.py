"""lm-eval, the field's own harness, over artifacts: its tasks, prompts and scores, with qexport's answers."""
