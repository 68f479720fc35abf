"""Packages: `load_package` opens one, and `HtpPackage` has the verbs as its methods.

The rooms below know a package as what it holds. What can be done with it are the verbs, functions whose first argument is
a package; as attributes of a class they are its methods, with the parameters, types and docstrings that they have. This
file stands above the verbs, because it has to know them all.
"""

from __future__ import annotations

from pathlib import Path

from optimum_htp.package import HtpPackage as _HtpPackage
from optimum_htp.verbs.compare import compare
from optimum_htp.verbs.diff import diff
from optimum_htp.verbs.extract import extract
from optimum_htp.verbs.pack import pack
from optimum_htp.verbs.params import params
from optimum_htp.verbs.profile import profile
from optimum_htp.verbs.select import select
from optimum_htp.verbs.tree import tree
from optimum_htp.verbs.validate import validate


class HtpPackage(_HtpPackage):
    """An exported package, opened for reading, with the verbs that only read it as its methods.

    `package.profile(batch_size=8)` is `profile(package, batch_size=8)`. What changes a package in its place (`tag`,
    `project`, `strip`) takes it by its path: an opened package goes on saying what it said when it was opened.
    """

    tree = tree
    select = select
    params = params
    profile = profile
    compare = compare
    diff = diff
    validate = validate
    extract = extract
    pack = pack


def load_package(path: str | Path) -> HtpPackage:
    """Opens an exported package: a directory, or a single ONNX file, packed or not.

    Args:
        path: The directory or the file.

    Raises:
        PackageError: There is no such path, it holds no ONNX file, or its sidecar is broken.
        OnnxFileError: The path is that of a file, and it is not an ONNX model.

    Example:
        >>> package = load_package("bert_onnx")                                   # doctest: +SKIP
        >>> package.files["model.onnx"].hierarchy.nodes("bert.encoder.layer.0")   # doctest: +SKIP
        >>> package.profile(batch_size=8).phases[0].modules                       # doctest: +SKIP
    """
    return HtpPackage(path)
