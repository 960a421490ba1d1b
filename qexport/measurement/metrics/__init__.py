"""Metrics of qexport: one module for each kind of measurement."""
