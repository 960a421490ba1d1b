"""Engines: libraries that rewrite MatMuls to INT8."""
