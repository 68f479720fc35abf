"""The trace: which module call produced which value of the graph, recorded while the exporter itself runs the model.

`ModuleTap` wraps `torch.onnx.export` for as long as it is open. Each export that runs inside leaves an `ExportTrace`:
the static module tree, the tree of module calls, and for every value of the graph the call that produced it.

How a value's call is known. The TorchScript exporter pushes a scope `class::name` for every module call and later
names the nodes by the `name` parts alone. The `class` part is free, so a forward pre-hook, which runs just before the
push, writes the number of the call there. When the exporter assigns the names, the scope of every node is still on it:
its number is read exactly, without an extra forward pass.

A scripted function (`torch.jit.script`) is traced as one call, which does have a scope, and inlined later, when what is
inlined has none. Its call is put between two marks, and what is between them after the inlining gets the marks' scope:
one whose name has no `::`, which the exporter skips when it names the nodes.

The dynamo exporter keeps a stack of the modules that run, and copies it to each operation. There the hook notes which
call is on top of it; what is made of an operation has that call.

Except for the tags themselves, the file is byte for byte what it would be without the tap.

| where | what |
|---|---|
| `tap` | the wrapper around `torch.onnx.export` |
| `recorder` | the hooks that record the module calls of one export |
| `torchscript` | all that is private to torch's TorchScript exporter, and what happens if it is gone |
| `dynamo` | the same of its dynamo exporter |
| `modules` | what is known of a model without running it |
| `trace` | the trace as data |
"""
