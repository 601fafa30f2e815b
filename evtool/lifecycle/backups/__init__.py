"""Backups of a log in an object store: made, looked at, checked, thinned out, and made a log again."""
