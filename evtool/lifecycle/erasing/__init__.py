"""Erasing events on request, wherever they or something of them is kept."""
