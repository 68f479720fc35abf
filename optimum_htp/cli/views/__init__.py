"""What reports look like, on a terminal, in a pipe and in Python; as JSON they are their `to_dict()`."""
