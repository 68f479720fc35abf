"""The command line: `optimum-cli export htp`, `optimum-cli htp VERB` and `optimum-htp VERB`.

Building the parsers imports nothing heavy; a verb imports what it needs when it runs.
"""
