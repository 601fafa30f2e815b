"""What keeps a log healthy over the years."""
