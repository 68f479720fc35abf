"""What reports look like: as text, and as JSON."""
