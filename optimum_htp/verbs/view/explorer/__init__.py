"""`view` for Model Explorer: what is known of each node, as the files and in the names that it takes.

| file | what it does |
|---|---|
| `verb` | the entry `model_explorer`; `report` is what it returns |
| `drawn` | what Model Explorer calls the nodes |
| `figures` | values of the nodes, and their colours |
| `navigation` | which nodes of two packages go with each other |
| `server` | starts Model Explorer |
"""
