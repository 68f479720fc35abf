"""Packages: `load_package` opens one, and `HtpPackage` has as its methods the verbs, whose first argument a package is."""

from __future__ import annotations

from pathlib import Path

from optimum_htp.package import HtpPackage as _HtpPackage
from optimum_htp.verbs.compare import compare
from optimum_htp.verbs.diff import diff
from optimum_htp.verbs.explain import explain
from optimum_htp.verbs.expose import expose
from optimum_htp.verbs.extract import extract
from optimum_htp.verbs.functions import functions
from optimum_htp.verbs.pack import pack
from optimum_htp.verbs.params import params
from optimum_htp.verbs.profile import profile
from optimum_htp.verbs.ranges import ranges
from optimum_htp.verbs.select import select
from optimum_htp.verbs.tree import tree
from optimum_htp.verbs.validate import validate
from optimum_htp.verbs.view import model_explorer, view


class HtpPackage(_HtpPackage):
    """An exported package, opened for reading, with the verbs that only read it as its methods.

    `package.profile(batch_size=8)` is `profile(package, batch_size=8)`. The verbs that change a package in place (`tag`,
    `project`, `strip`) are not methods: an opened package does not change.
    """

    tree = tree
    select = select
    params = params
    profile = profile
    compare = compare
    ranges = ranges
    diff = diff
    view = view
    model_explorer = model_explorer
    validate = validate
    extract = extract
    expose = expose
    functions = functions
    explain = explain
    pack = pack


def load_package(path: str | Path) -> HtpPackage:
    """Opens an exported package: a directory, or a single ONNX file, packed or not.

    Raises:
        PackageError: There is no such path, it holds no ONNX file, or its sidecar is broken.
        OnnxFileError: The path is that of a file, and it is not an ONNX model.

    Example:
        >>> package = load_package("bert_onnx")                                   # doctest: +SKIP
        >>> package.files["model.onnx"].hierarchy.nodes("bert.encoder.layer.0")   # doctest: +SKIP
        >>> package.profile(batch_size=8).phases[0].modules                       # doctest: +SKIP
    """
    return HtpPackage(path)
