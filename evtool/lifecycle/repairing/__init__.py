"""What is left of a damaged log made a whole one again."""
