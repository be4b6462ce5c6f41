"""A user's clicks from a file, as hints to the agents that know them."""

import csv
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxseg import rl
from jaxseg.cli import agents
from jaxseg.data import points
from jaxseg.data.preprocess import Record
from jaxseg.typing import Case, UserError, Volume

AXES = ("z", "y", "x")


class Click(NamedTuple):
    """One row of the file: an index into the image's array, and the class id of what is there."""

    point: tuple[int, ...]
    label: int


def read(path: str, *, classes: Sequence[str]) -> dict[str, list[Click]]:
    """Returns the clicks of each case.

    Args:
      path: a .csv with the columns case, y, x (and z, of volumes) and class; places count from 0.
      classes: by id.

    Raises:
      UserError: there is no such file, a column is missing, or a row holds something else.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"--clicks {path}: there is no such file; name a .csv with the columns case, y, x, class.")
    found: dict[str, list[Click]] = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        names = table.fieldnames or ()
        missing = [name for name in ("case", "y", "x", "class") if name not in names]
        if missing:
            raise UserError(f"--clicks {path} should have the columns case, y, x, class; {missing[0]} is missing.")
        axes = [axis for axis in AXES if axis in names]
        for row in table:
            found.setdefault(row["case"], []).append(_click(row, axes, classes, f"{path}, line {table.line_num}"))
    return found


def _click(row: Mapping[str, str], axes: Sequence[str], classes: Sequence[str], place: str) -> Click:
    if row["class"] not in classes:
        raise UserError(f"--clicks {place}: the class should be one of {', '.join(classes)}, got {row['class']!r}.")
    try:
        return Click(tuple(int(row[axis]) for axis in axes), classes.index(row["class"]))
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{axis}={row[axis]!r}" for axis in axes)
        raise UserError(f"--clicks {place}: places should be whole numbers of voxels, got {given}.") from error


def hints(path: str, config: ConfigDict, known: Any, cases: Sequence[Case]) -> Callable[[Volume, Record], np.ndarray]:
    """Returns `(volume, record) -> (*T, H)`: the hints that the clicks in a file give, on the network's grid.

    Raises:
      UserError: the agents know no hints, the file cannot be read, or it names a case that is not there.
    """
    world = agents.world(config)
    if config.task != "refinement" or not world.clicks:
        raise UserError("--clicks needs agents that learnt what clicks mean; train them with rl.clicks above 0.")
    clicks = read(path, classes=known.classes)
    unknown = sorted(set(clicks) - {case.name for case in cases})
    if unknown:
        raise UserError(f"--clicks {path} names {unknown[0]!r}, which is none of the {len(cases)} images of --input.")
    names = {case.images[0]: case.name for case in cases}
    planes = agents.planes(known)

    def beside(volume: Volume, record: Record) -> np.ndarray:
        shape = tuple(record["new_shape"])
        found = jnp.zeros((*shape, rl.refine.hint_channels(world, planes.number)))
        for click in clicks.get(names[volume.path], ()):
            inside = planes.true(jnp.array([[click.label]]))[0, 0] > 0.5
            place = jnp.array(_place(click, record, f"--clicks {path}: {names[volume.path]}"), jnp.int32)
            found = rl.clicks.add(found, rl.clicks.Click(place, inside, jnp.array(True)), scale=world.click_scale)
        return np.asarray(found)

    return beside


def _place(click: Click, record: Record, where: str) -> tuple[int, ...]:
    try:
        return points.forward_point(click.point, record)
    except ValueError as error:
        shape = tuple(record["shape"])
        raise UserError(
            f"{where} has a click at {click.point}, but the image has the shape {shape}; correct the row."
        ) from error
