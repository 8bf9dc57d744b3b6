"""Webhooks: validation of targets, signatures, the HTTP client, and the loop that delivers them."""
