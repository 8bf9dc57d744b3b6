"""Mutation tests of the core: which changes of its behaviour no test notices (`make mutants`)."""
