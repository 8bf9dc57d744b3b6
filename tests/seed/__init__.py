"""The contracts of the run manager towards callers of the registry that it replaces, one file per noun."""
