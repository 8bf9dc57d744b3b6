"""What the run manager promises to callers of the registry that it grew from, noun by noun."""
