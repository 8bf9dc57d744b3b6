"""What runs on a thread, and where threads keep their state. The ports are in `ports`."""
