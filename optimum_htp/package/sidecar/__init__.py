"""`export_metadata.json`: what is written to it, and how it is read back."""
