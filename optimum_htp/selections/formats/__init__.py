"""The formats in which tools take a selection: a file for each tool, and `table` lists them.

To add one: write a file with its `FORMAT` (the interface is in `base`), add it to `table.FORMATS` by its name, and
describe it in the help, at the top of `cli/select.py`.
"""
