"""The formats in which tools take a selection: a file for each tool, and `table` lists them.

To add one: write a file with its `FORMAT` (the interface is in `base`), and name it in `table.FORMATS` and in the help
of `cli/select.py`.
"""
