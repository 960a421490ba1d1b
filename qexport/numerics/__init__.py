"""Numerics in numpy and the standard library only: no framework, no graph, no file."""
