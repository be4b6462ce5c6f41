"""A page that shows cases in the browser: the files of its layers, its list of cases, and the folder of both."""

from jaxseg.viz.viewer.folder import ASSETS, LARGEST_BYTES, asset, write_folder
from jaxseg.viz.viewer.layers import Shown, case_files, object_classes
from jaxseg.viz.viewer.manifest import Listed, class_table, manifest, rank, script

__all__ = [
    "ASSETS",
    "LARGEST_BYTES",
    "Listed",
    "Shown",
    "asset",
    "case_files",
    "class_table",
    "manifest",
    "object_classes",
    "rank",
    "script",
    "write_folder",
]
