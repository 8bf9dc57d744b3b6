"""`coordinator demo`: eight claims of this project, shown on real processes and measured."""
