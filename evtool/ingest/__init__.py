"""Ingest: bytes flow one way, from a source to a commit."""
