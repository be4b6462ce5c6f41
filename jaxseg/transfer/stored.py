"""Converted weights on disk: DIR/model.json (which network) and DIR/variables (an Orbax checkpoint of its arrays)."""

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import models, paths
from jaxseg.typing import UserError

MODEL, VARIABLES = "model.json", "variables"


def save(folder: str | paths.Path, model: Any, variables: Mapping[str, Any], *, source: str, in_channels: int) -> None:
    """Writes a network that `from_torch` returned; a half-written folder never bears its final name.

    Raises:
      UserError: the folder exists and is not empty, or cannot be written.
    """
    import orbax.checkpoint as ocp

    folder = paths.absolute(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--output {folder} is not empty; name a new folder.")
    temporary = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be written ({error.strerror}); name another folder.") from error
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(temporary / VARIABLES, jax.tree.map(np.asarray, dict(variables)))
        name, fields = models.describe(model)
        content = {"model": name, "fields": fields, "source": source, "in_channels": in_channels}
        (temporary / MODEL).write_text(json.dumps(content, indent=1))
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load(folder: str | paths.Path) -> tuple[Any, dict[str, Any]]:
    """Returns `(model, variables)` of a folder that `save` wrote.

    Raises:
      UserError: it is no such folder, or it is damaged.
    """
    folder = paths.absolute(folder)
    try:
        content = json.loads((folder / MODEL).read_text())
        model = models.create(content["model"], **content["fields"])
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{folder} holds no converted weights ({error}); make it with --mode convert.") from error
    return model, jax.tree.map(jnp.asarray, read_tree(folder / VARIABLES))


def read_tree(folder: str | paths.Path) -> dict[str, Any]:
    """Returns any Orbax checkpoint of nested dicts as host arrays, whatever devices it was written from.

    Raises:
      UserError: it cannot be read.
    """
    import orbax.checkpoint as ocp

    check_intact(folder)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            shapes = checkpointer.metadata(paths.absolute(folder)).item_metadata.tree
            kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            return checkpointer.restore(paths.absolute(folder), restore_args=kinds)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"The checkpoint {folder} cannot be read ({text}); it may be damaged.") from error


def check_intact(folder: str | paths.Path) -> None:
    """Reads the database of an Orbax checkpoint once, entry by entry, and keeps nothing.

    Orbax reads all arrays at once and leaves at the first error; the reads still under way then print tracebacks of
    their own, for seconds, from threads that nobody waits for. So damage has to be found before Orbax is asked.

    Raises:
      UserError: an index or a data file is missing or damaged.
    """
    import tensorstore

    folder = paths.absolute(folder)
    try:
        if not json.loads((folder / "_METADATA").read_text()).get("use_ocdbt", True):
            return  # one folder for each array: somebody else's checkpoint, not one of ours
        entries = tensorstore.KvStore.open({"driver": "ocdbt", "base": paths.kvstore_url(folder)}).result()
        keys = entries.list().result()
        missing = [key for key in keys if entries.read(key).result().state != "value"]
        damage = f"{len(missing)} of {len(keys)} entries are missing" if missing else "" if keys else "it is empty"
    except (ValueError, OSError) as error:
        damage = " ".join(str(error).split())[:200]
    if damage:
        raise UserError(f"The checkpoint {folder} cannot be read ({damage}); it may be damaged.")
