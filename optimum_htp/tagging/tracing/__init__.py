"""The trace: which module call made which value of the graph, recorded while the exporter itself runs the model.

`ModuleTap` wraps `torch.onnx.export` for as long as it is open. Each export that runs inside leaves an `ExportTrace`:
the static module tree, the tree of module calls, and for every value of the exported graph the call that made it.

How a value's call is known. The TorchScript exporter pushes a scope `class::name` for every module call and later
names the nodes by the `name` parts alone. The `class` part is free, so a forward pre-hook, which runs just before the
push, writes the number of the call there. When the exporter assigns the names (`_jit_pass_onnx_assign_scoped_names_…`)
the scope of every node is still on it: its number is read off, exactly, with nothing to parse and no extra forward
pass.

A scripted function (`torch.jit.script`) is traced as one call, which does have a scope, and inlined later, when what is
inlined has none. Its call is put between two marks, and what stands between them after the inlining gets the marks'
scope: one whose name has no `::`, which the exporter passes over when it names the nodes.

But for the tags themselves, the file that comes out is byte for byte the one that comes out without us.

| where | what |
|---|---|
| `tap` | the wrapper around `torch.onnx.export` |
| `recorder` | the hooks that record the module calls of one export |
| `torchscript` | all that is private to torch, and what happens where it is gone |
| `modules` | what a model shows of itself without running |
| `trace` | what a trace says, as data |
"""
