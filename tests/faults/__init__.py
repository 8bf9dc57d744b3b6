"""`make faults`: real worker processes under real faults; their histories are checked, recoveries timed."""
