"""The saver in a SQLite file."""
