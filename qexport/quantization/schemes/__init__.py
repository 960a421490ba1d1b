"""Schemes: one module for each way to quantize a model."""
