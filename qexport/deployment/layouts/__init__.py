"""Layouts: one module for each runtime that artifacts can be deployed to."""
