"""The command line; building its parsers imports nothing heavy: a verb imports what it needs when it runs."""
