"""The archive of a log: its cold segments in an object store, moved there, checked, swept and brought back."""
