"""An extension of Google's Model Explorer: `model-explorer --extensions model_explorer_onnx,optimum_htp.explorer_extension`.

Model Explorer imports `main` in the module that it is given.
"""
