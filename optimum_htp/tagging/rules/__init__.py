"""The rules that decide the tag of a node, one file for each kind of evidence."""
