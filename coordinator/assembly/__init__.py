"""Puts a manager's collaborators together: each gets only the ports that it uses."""
