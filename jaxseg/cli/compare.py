"""--mode compare: two evaluated workdirs, paired case by case."""

from jaxseg.cli import workdir
from jaxseg.evaluate import compare_runs
from jaxseg.typing import UserError


def compare(arguments: workdir.Arguments) -> None:
    """Prints the paired differences; with --output (.svg or .png) also plots one run against the other."""
    if len(arguments.inputs) != 2:
        raise UserError("--mode compare needs two workdirs: --input W1 --input W2.")
    text, _ = compare_runs(*arguments.inputs, scatter=arguments.output)
    print(text)
