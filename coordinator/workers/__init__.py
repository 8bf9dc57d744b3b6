"""What a worker owes the others: an identity, a lease, a look around, and the end of the dead."""
