"""What both Redis adapters share. Only speed lives in Redis, never truth (law 1)."""
