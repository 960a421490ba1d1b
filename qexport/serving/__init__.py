"""One artifact behind an OpenAI-compatible HTTP server: greedy, on qexport's own runtime, with nothing of torch."""
