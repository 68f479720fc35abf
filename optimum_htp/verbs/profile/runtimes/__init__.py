"""Where times are from, one file for each runtime; all of them give what is in `ran`.

`onnxruntime` runs a file under ONNX Runtime's profiler and joins the events by name to the graph that it wrote out; `openvino`
runs it in OpenVINO, whose layers say which nodes they were made of; `tensorrt` reads what trtexec wrote. `layers` finds the
modules of layers that say so, and `layer_names` what their names say where TensorRT says nothing else.
"""
