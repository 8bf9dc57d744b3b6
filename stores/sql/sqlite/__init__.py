"""SQLite's side of the store: schema, and every transaction as a function over one connection.

The functions are synchronous and never commit: whoever calls them (a group commit, or the in-memory
store) opens the transaction, so that each is one indivisible unit. `now` is the store's clock.
"""
