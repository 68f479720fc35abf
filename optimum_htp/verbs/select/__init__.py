"""`select`: the nodes of some modules, in the format that a tool takes."""

from optimum_htp.verbs.select.verb import select, write_layer_annotations
