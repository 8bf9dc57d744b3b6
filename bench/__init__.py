"""`make bench`: what the coordinator costs, side by side in one run, medians of several rounds."""
