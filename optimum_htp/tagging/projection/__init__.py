"""Tags of a graph, carried onto the graphs that tools make from it.

The tag of a fused node: `deciding.Decider._by_work`. The files in the order in which they act:

| file | what it does |
|---|---|
| `steps` | the entry `project`, which runs the others; the worked example |
| `flow` | flattens a model: bodies spliced in, names resolved |
| `graph_pairs` | pairs the target's graphs with the sources' and their values by name; its result is a `join.Join` |
| `join` | what all rules fill: each tagged node's owner in the target, each node's anchors and work |
| `renamed` (`match_names`) | nodes whose names were kept, or made from old ones |
| `absorbed` | what convolutions in blocked layout took on after they were named |
| `packed` | nodes whose weights were packed from several, and those that part their results; asked by the next |
| `renamed` (`match_renamed`) | nodes without a known name, by what they consume |
| `folded` | what nodes took on into their weights |
| `vanished` | who does the work of tagged nodes that are gone |
| `descent` | refuses a target that was not made from the sources, if asked to |
| `deciding` | what the matches say of each node's tag, call, source and origins |
"""
