"""The forms in which tools take a selection: one file for each, and `table` lists them.

To add one: write a class with the interface in `base`, put it into `table.FORMATS`, and say in `cli/select.py` what it
is.
"""
