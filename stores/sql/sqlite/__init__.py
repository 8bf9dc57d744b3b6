"""SQLite's side of the store: schema, and every transaction as a function over one connection.

The functions are synchronous and never commit: their callers (a group commit, or the in-memory
store) open the transaction, so that each is one indivisible unit. `now` is the store's clock.
"""
