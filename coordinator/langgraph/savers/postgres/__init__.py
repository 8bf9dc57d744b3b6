"""The saver in a PostgreSQL database."""
