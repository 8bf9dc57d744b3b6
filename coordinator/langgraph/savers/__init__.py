"""Checkpoint savers whose writes are fenced and can be undone, over the tables of LangGraph's own savers."""
