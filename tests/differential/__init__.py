"""The same random calls on every store: each answer is compared, and in the end each table."""
