"""A config as the text of a config file, for the modes that write one: plan and tune."""

import pathlib
import shlex
import sys

from ml_collections import ConfigDict

from jaxseg import config as configs

FILE = '''"""{title}

    python launch.py --config {path}

{made} by: {command}
{remark}
"""

from jaxseg.config import base_config, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, debug=False)
    config = base_config()

{settings}

    if arg.debug:
{debug}
    return config
'''
NARROW = "config.model.features = (4,) * len(config.model.features)"
DEBUG = (
    "config.train.total_minutes = config.train.total_epochs = None",
    "config.train.total_steps = 2",
    "config.train.eval_cases = 1",
)


def text(config: ConfigDict, *, title: str, path: pathlib.Path, made: str, remark: str) -> str:
    """Returns the Python of a config file: what differs from the defaults, one line a field.

    Args:
      config: the settings.
      title: what it is, the first line.
      path: where it will lie, for the command in it.
      made: the verb before the command that is running, such as "Planned".
      remark: what a reader should know of it.
    """
    batch = f"config.data.batch_size = {2 * config.optim.accumulate}"
    debug = (batch, *((NARROW,) if isinstance(config.model.get("features"), tuple) else ()), *DEBUG)
    return FILE.format(
        title=title,
        path=path,
        made=made,
        command=shlex.join(["python", *sys.argv]).replace("\\", r"\\").replace('"""', r"\"\"\""),
        remark=remark,
        settings="\n".join(assignments(config)),
        debug="\n".join(f"        {line}" for line in debug),
    )


def assignments(config: ConfigDict) -> list[str]:
    """Returns a line of Python for every field that differs from the defaults."""
    whole = ("model", "init.fields")  # their fields differ from network to network: one value each
    defaults = configs.flat(configs.base_config().to_dict(), whole=whole)
    return [
        f"    config.{name} = {value!r}"
        for name, value in configs.flat(config.to_dict(), whole=whole).items()
        if name not in defaults or defaults[name] != value
    ]
