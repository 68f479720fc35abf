"""Tags of a graph, carried onto the graphs that tools make from it."""
