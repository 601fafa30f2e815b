"""Projections: exact, incremental, reproducible read models of a log."""
