"""The Agent Streaming Protocol: the events of a thread in one order, and commands. See docs/adr/0092."""
