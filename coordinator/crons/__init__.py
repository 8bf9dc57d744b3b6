"""Crons: the parser of schedules, and the loop that fires due crons."""
