"""GGUF files: one file with a model's weights, configuration and tokenizer, as llama.cpp reads it."""
