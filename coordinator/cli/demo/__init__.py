"""`coordinator demo`: seven claims of this project, shown on real processes and measured."""
