"""PostgreSQL's side of the store: schema, functions, and every transaction as one call of one function.

A transaction is one statement: one round trip, whatever it reads and writes, and nothing is held between
two of them. So a pooler in transaction mode may stand in between, and a client that dies leaves no
transaction open.
"""
