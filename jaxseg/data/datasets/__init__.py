"""Layouts on disk to a `DataSet`: one table of layouts, `load` lists the cases, `check` finds the bad ones.

To add a layout: one file with `load(*, root, **options) -> DataSet` and one line in `TABLE`; a layout outside this
package needs no line, `data.name="my_lab.layouts:load"` resolves.
"""

import inspect
from typing import Any

from jaxseg.data.datasets.check import check, integrity_report
from jaxseg.data.datasets.inputs import list_inputs, output_name, read_case
from jaxseg.data.datasets.layouts import is_labelled
from jaxseg.registry import resolve
from jaxseg.typing import DataSet, UserError

__all__ = [
    "TABLE", "check", "integrity_report", "is_labelled", "list_inputs", "load", "names", "output_name", "read_case",
]  # fmt: skip
TABLE = {
    "nnunet_raw": "jaxseg.data.datasets.nnunet_raw:load",
    "msd": "jaxseg.data.datasets.msd:load",
    "image_mask": "jaxseg.data.datasets.image_mask:load",
    "mni": "jaxseg.data.datasets.mni:load",
    "tfds": "jaxseg.data.datasets.tfds:load",
    "instance_masks": "jaxseg.data.datasets.instance_masks:load",
    "coco": "jaxseg.data.datasets.coco:load",
}


def names() -> tuple[str, ...]:
    """Returns the layouts by name."""
    return tuple(sorted(TABLE))


def load(name: str, *, root: Any = None, **options: Any) -> DataSet:
    """Lists a data set, labelled or (see `is_labelled`) not; no voxel is read yet.

    Args:
      name: a layout of `TABLE`, or "package.module:function".
      root: the folder of the data set ("mni" needs none).
      **options: the layout's own; an option that is None counts as not given.

    Raises:
      UserError: the layout or an option is unknown, or the folder does not hold what the layout promises.
    """
    layout = resolve(name, TABLE, kind="data layout")
    given = {key: value for key, value in options.items() if value is not None}
    try:
        inspect.signature(layout).bind(root=root, **given)
    except TypeError as error:
        known = [key for key in inspect.signature(layout).parameters if key != "root"]
        raise UserError(
            f"The data layout {name!r} cannot take these options: {error}; it takes {', '.join(known) or 'none'}."
        ) from error
    return layout(root=root, **given)
