"""What reports look like as text; as JSON they are their `to_dict()`."""
