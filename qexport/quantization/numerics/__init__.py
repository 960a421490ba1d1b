"""Numerics: rounding of weights as plain functions of arrays."""
