"""Crons: what a schedule means, and the loop that fires what is due."""
