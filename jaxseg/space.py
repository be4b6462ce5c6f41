"""What a search may change: named fields of a config, each with the values that it can take.

    optim.lr = log(1e-4, 1e-2); optim.name = choice(adamw, sgd); data.batch_size = int(2, 8, step=2)

One field an entry, entries parted by semicolons or line ends:

    uniform(low, high[, step=s])   any number between the two
    log(low, high)                 the same on a logarithmic scale; whole numbers where the field takes those
    int(low, high[, step=s])       whole numbers, both ends included
    choice(a, b, ...)              one of these: words, strings that build things, tuples, numbers, True, False
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jaxseg.registry import literal, split
from jaxseg.typing import UserError

# Data are prepared once for all trials, and all are scored alike on the same cases; so these decide training only.
SEARCHED = (
    "model.", "optim.", "loss", "augment", "init.skip", "init.stem", "init.inflate", "instance.", "data.batch_size",
    "data.patch_size", "data.foreground", "data.extra_share", "train.dtype", "train.sync_batch_norm",
)  # fmt: skip
DIGITS = 4  # significant ones of a number that was drawn, so that configs can be read
_EXAMPLE = "optim.lr=log(1e-4,1e-2); optim.name=choice(adamw,sgd)"
_FORMS = "uniform(low, high), log(low, high), int(low, high) or choice(a, b, ...)"


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included; `step` None: any between them."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    def value(self, drawn: float) -> float | int:
        """Returns what a drawn number is in the config: whole, or of few digits, and within the range."""
        if self.whole:
            return round(drawn)
        return min(max(float(f"{drawn:.{DIGITS}g}"), self.low), self.high)


class Choice(NamedTuple):
    """One of several values, told apart by how they are written."""

    values: tuple[Any, ...]

    def texts(self) -> tuple[str, ...]:
        """How each value is shown, and named in a study."""
        return tuple(value if isinstance(value, str) else repr(value) for value in self.values)

    def value(self, drawn: str) -> Any:
        """Returns the value that is shown as `drawn`."""
        return self.values[self.texts().index(drawn)]


Domain = Range | Choice


def parse(text: str, settings: Mapping[str, Any]) -> dict[str, Domain]:
    """Returns field -> what it may take, in the order of the text.

    Args:
      text: entries as above.
      settings: all fields of the config by dotted name, with their present values, which give their types.

    Raises:
      UserError: any of `problems`.
    """
    found, wrong = _read(text, settings)
    if wrong:
        raise UserError(" ".join(wrong))
    return found


def problems(text: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with a text, a sentence each; arguments as for `parse`."""
    yield from _read(text, settings)[1]


def searchable(name: str) -> bool:
    """Says whether a field may differ between trials that share prepared data and held-out cases."""
    return name.startswith(tuple(part for part in SEARCHED if part.endswith("."))) or name in SEARCHED


def _read(text: str, settings: Mapping[str, Any]) -> tuple[dict[str, Domain], list[str]]:
    found: dict[str, Domain] = {}
    wrong: list[str] = []
    for entry in filter(None, split(text, ";\n")):
        name, equals, rest = (part.strip() for part in entry.partition("="))
        try:
            if not equals:
                raise UserError(f"tune.space: {entry!r} should read field = domain, such as {_EXAMPLE}.")
            if name in found:
                raise UserError(f"tune.space names {name} twice.")
            _check_name(name, settings)
            found[name] = _domain(name, rest, settings.get(name))
        except UserError as error:
            wrong.append(str(error))
    return found, wrong


def _check_name(name: str, settings: Mapping[str, Any]) -> None:
    if name in settings or name.startswith("model."):  # which fields a network has, it says itself
        if searchable(name):
            return
        raise UserError(
            f"tune.space: {name} may not be searched, since all trials share prepared data and are scored alike; "
            f"what may: {', '.join(part + '*' if part.endswith('.') else part for part in SEARCHED)}."
        )
    close = difflib.get_close_matches(name, list(filter(searchable, settings)), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}?" if close else f"write entries such as {_EXAMPLE}."
    raise UserError(f"tune.space: the config has no field {name!r}; {hint}")


def _domain(name: str, text: str, current: Any) -> Domain:
    kind, bracket, rest = text.partition("(")
    kind = kind.strip()
    if kind not in ("uniform", "log", "int", "choice") or not bracket or not rest.endswith(")"):
        raise UserError(f"tune.space: {name} should be one of {_FORMS}, got {text!r}.")
    parts = [part for part in split(rest[:-1], ",") if part]
    if kind == "choice":
        return _choice(name, parts, current)
    return _range(name, kind, parts, current)


def _choice(name: str, parts: list[str], current: Any) -> Choice:
    values = tuple(_as_text(part) if isinstance(current, str) else literal(part) for part in parts)
    if not values:
        raise UserError(f"tune.space: {name} has nothing to choose from; write choice(a, b).")
    for value in values:
        if not _fits(value, current):
            kind = type(current).__name__
            raise UserError(f"tune.space: {name} takes values of type {kind} such as {current!r}, got {value!r}.")
    choice = Choice(values)
    if len(set(choice.texts())) < len(values):
        raise UserError(f"tune.space: {name} names a choice twice in {', '.join(choice.texts())}.")
    return choice


def _as_text(part: str) -> str:
    """A quoted string is what stands between the quotes; everything else is taken as it is written."""
    value = literal(part)
    return value if isinstance(value, str) else part


def _range(name: str, kind: str, parts: list[str], current: Any) -> Range:
    whole = kind == "int" or (kind == "log" and isinstance(current, int))
    if current is not None and not _fits(1 if whole else 0.5, current):
        better = "int" if isinstance(current, int) and not isinstance(current, bool) else "choice"
        raise UserError(f"tune.space: {name} is {current!r} in the config; use {better}(...) in place of {kind}(...).")
    given = dict(zip(("low", "high"), (part for part in parts if "=" not in part)))
    given |= {word.strip(): value for word, _, value in (part.partition("=") for part in parts if "=" in part)}
    numbers = {word: literal(value.strip()) for word, value in given.items()}
    allowed = {"low", "high"} if kind == "log" else {"low", "high", "step"}
    fine = {"low", "high"} <= set(numbers) <= allowed and len(parts) == len(numbers)
    if not fine or not all(_fits(value, 1 if whole else 0.5) for value in numbers.values()):
        raise UserError(
            f"tune.space: {name} should read {kind}(low, high{', step=s' if kind != 'log' else ''}) with "
            f"{'whole ' if whole else ''}numbers, got {kind}({', '.join(parts)})."
        )
    low, high, step = numbers["low"], numbers["high"], numbers.get("step", 1 if whole and kind == "int" else None)
    if not low < high:
        raise UserError(f"tune.space: the low end of {name} should be below the high end, got {low} and {high}.")
    if kind == "log" and low <= 0:
        raise UserError(f"tune.space: a logarithmic range starts above 0, got {low} for {name}.")
    if step is not None and not 0 < step <= high - low:
        raise UserError(f"tune.space: the step of {name} should be positive and fit between its ends, got {step}.")
    return Range(float(low), float(high), None if step is None else float(step), kind == "log", whole)


def _fits(value: Any, like: Any) -> bool:
    """Says whether a field that now is `like` may be `value`; an int may stand for a float."""
    if like is None:
        return True
    if isinstance(like, bool) or isinstance(value, bool):
        return isinstance(like, bool) and isinstance(value, bool)
    return isinstance(value, int | float) if isinstance(like, float) else isinstance(value, type(like))
