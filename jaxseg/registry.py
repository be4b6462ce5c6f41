"""Names to functions: one table a package, one line an entry, nothing imported before it is asked for."""

import ast
import difflib
import functools
import importlib
from collections.abc import Mapping
from typing import Any

from jaxseg.typing import UserError


def resolve(name: str, table: Mapping[str, str], *, kind: str) -> Any:
    """Returns what `name` stands for: an entry of `table` ("module:attr"), or an outside "package.module:attr".

    Args:
      name: the table's key, or a dotted path with a colon.
      table: key -> "module:attr".
      kind: the noun for messages, such as "model".

    Raises:
      UserError: the name is unknown (the nearest known ones are listed) or the outside path does not import.
    """
    path = table.get(name, name if ":" in name else None)
    if path is None:
        close = difflib.get_close_matches(name, table, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(f"There is no {kind} named {name!r}; {hint}Known: {', '.join(sorted(table))}.")
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if name in table:
            raise
        raise UserError(f"The {kind} {name!r} cannot be imported: {error}.") from error


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Splits "name(a=1, b=(2, 3))" into its name and its literal keyword arguments; "name" alone has none.

    Raises:
      UserError: the text is not a name or a call with literal keyword arguments.
    """
    text = text.strip()
    head, _, rest = text.partition("(")
    try:
        call = ast.parse(f"f({rest}" if rest else "f()", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not head.strip():
            raise ValueError("only keyword arguments are allowed")
        if any(word.arg is None for word in call.keywords):
            raise ValueError("** is not allowed")
        return head.strip(), {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
    except (ValueError, SyntaxError, TypeError) as error:
        raise UserError(f"{text!r} should read name or name(option=value, ...): {error}.") from error


def split(text: str, separators: str) -> list[str]:
    """Splits at every letter of `separators` that stands outside brackets; the parts are stripped, empty ones kept."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter in separators and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def literal(text: str) -> Any:
    """Returns the Python literal that a text stands for; an unquoted word is a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def build(text: str, table: Mapping[str, str], *, kind: str) -> functools.partial:
    """Returns `partial(function, **options)` of a config string such as "focal_loss(gamma=2.0)"."""
    name, options = parse_call(text)
    return functools.partial(resolve(name, table, kind=kind), **options)
