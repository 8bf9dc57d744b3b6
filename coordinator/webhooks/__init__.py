"""Webhooks: where they may go, how they are signed and sent, and the loop that delivers them."""
