"""What initializers were made of: the parameters of the PyTorch model, found by value.

`initializers` has their values and who consumes them, `state_dict` the model's tensors; `readings` says how an initializer
is read as numbers, `origins` what was done to which parameters to make it, and `distinct` which are one parameter's and no other's.
"""
