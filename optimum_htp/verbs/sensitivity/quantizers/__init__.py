"""The quantizers of ONNX Runtime: how each is run, and what it makes of each node.

What is read from the file that a quantizer makes of the whole model, once, is what it will make of any part of it. A file
for each; `modes` lists them.
"""
