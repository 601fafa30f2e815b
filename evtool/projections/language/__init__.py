"""The expressions of definitions: SQL texts, typed trees, Polars."""
