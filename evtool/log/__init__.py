"""The log: its bytes on disk, the one writer and the many readers."""
