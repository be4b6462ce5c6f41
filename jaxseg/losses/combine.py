"""Weighted sums of losses from a config's string, and over the resolutions of a deeply supervised network."""

import difflib
import inspect
import io
import tokenize
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, Shaped

from jaxseg.losses.targets import AxisName, Labels, Logits
from jaxseg.registry import parse_call, resolve
from jaxseg.typing import IGNORE, LossFn, UserError


def names() -> tuple[str, ...]:
    """The losses that `from_string` knows by name, sorted."""
    return tuple(sorted(_table()))


def from_string(text: str, *, ignore_label: int | None = IGNORE) -> LossFn:
    """Builds a loss from a sum such as "dice_loss(ignore_background=True) + 0.5*cross_entropy".

    Args:
      text: terms joined by "+", each a loss's name, with options in brackets where wanted and a factor in front where
        it is not 1. A loss outside the house is "package.module:function".
      ignore_label: handed to every term that accepts it and does not set its own.

    Returns:
      `(logits, labels, *, axis_name=None) -> (B,)`, the weighted sum of the terms.

    Raises:
      UserError: the text does not parse, a name or an option is unknown, or a required option is missing.
    """
    terms = [_term(part, ignore_label) for part in _split(text)]

    def loss(logits: Logits, labels: Labels, *, axis_name: AxisName = None) -> Float[Array, "B"]:
        return sum(weight * term(logits, labels, axis_name=axis_name) for weight, term in terms)

    return loss


def deep_supervision(loss: LossFn, weights: Sequence[float] | None = None) -> Callable[..., Float[Array, "B"]]:
    """Applies one loss to every resolution of a network's logits, with nnU-Net's weights unless given.

    Returns:
      `(levels, labels, *, weights=None, axis_name=None) -> (B,)`: `levels` is a sequence of logits, finest first, the
      labels are those of the finest level, and are brought to each level's size by `downsample_labels`. The default
      weights are 1, 1/2, 1/4, ..., 0 for the lowest of several levels, divided by their sum. Weights given are used as
      they are. A level of weight 0 is not computed.
    """
    default = weights

    def deep_loss(
        levels: Sequence[Num[Array | np.ndarray, "B ... K"]],
        labels: Num[Array | np.ndarray, "B ..."],
        *,
        weights: Sequence[float] | None = None,
        axis_name: AxisName = None,
    ) -> Float[Array, "B"]:
        used = weights if weights is not None else default
        used = level_weights(len(levels)) if used is None else tuple(float(weight) for weight in used)
        if not levels or len(used) != len(levels):
            raise ValueError(f"deep_supervision needs one weight a level: {len(levels)} levels, {len(used)} weights.")
        total = jnp.zeros(levels[0].shape[:1], jnp.float32)
        for weight, logits in zip(used, levels):
            if weight:
                small = downsample_labels(labels, logits.shape[1:-1])
                total = total + weight * loss(logits, small, axis_name=axis_name)
        return total

    return deep_loss


def level_weights(count: int) -> tuple[float, ...]:
    """nnU-Net's weights of `count` resolutions, finest first: halved from level to level, the last 0, sum 1."""
    if count < 2:
        return (1.0,) * count
    raw = [0.5**level for level in range(count - 1)] + [0.0]
    return tuple(weight / sum(raw) for weight in raw)


def downsample_labels(
    labels: Shaped[Array | np.ndarray, "B ..."], size: Sequence[int]
) -> Shaped[Array | np.ndarray, "B ..."]:
    """Takes labels `(B, *S)` or soft targets `(B, *S, K)` to another spatial size by their nearest pixel.

    Pixel i of the small grid takes pixel floor((i + 0.5) * in / out) of the large one: the one at its centre (the upper
    of two). For whole ratios r this is i * r + r // 2. It is PyTorch's "nearest-exact", which nnU-Net uses.

    Args:
      size: the wanted `*S`, static.
    """
    for axis, wanted in enumerate(size, start=1):
        given = labels.shape[axis]
        if given == wanted:
            continue
        if given % wanted == 0:  # a strided slice is cheaper than a gather
            stride = given // wanted
            labels = labels[(slice(None),) * axis + (slice(stride // 2, None, stride),)]
        else:
            labels = jnp.take(
                labels, jnp.array([(2 * i + 1) * given // (2 * wanted) for i in range(wanted)]), axis=axis
            )
    return labels


def _table() -> Mapping[str, str]:
    from jaxseg import losses  # at call time: the package imports this module

    return losses.TABLE


def _split(text: str) -> list[list[str]]:
    """Cuts a sum at its outer plus signs; each term is its list of Python tokens."""
    expected = f"The loss {text!r} should read like 'dice_loss(ignore_background=True) + 0.5*cross_entropy'"
    skipped = (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT)
    try:
        found = list(tokenize.generate_tokens(io.StringIO(text.strip()).readline))
    except (tokenize.TokenError, SyntaxError) as error:
        raise UserError(f"{expected}: {error.args[0]}.") from error
    terms: list[list[str]] = [[]]
    depth = 0
    for token in found:
        if token.type in skipped:
            continue
        depth += (token.string in "([{") - (token.string in ")]}")
        if token.string == "+" and depth == 0:
            terms.append([])
        else:
            terms[-1].append(token.string)
    if not all(terms):
        raise UserError(f"{expected}: a term is empty.")
    return terms


def _term(tokens: list[str], ignore_label: int | None) -> tuple[float, LossFn]:
    """The factor and the function of one term."""
    weight = 1.0
    if len(tokens) > 2 and tokens[-2] == "*" and tokens[-1][0] in ".0123456789":
        weight, tokens = _number(tokens[-1]), tokens[:-2]
    elif len(tokens) > 2 and tokens[1] == "*":
        weight, tokens = _number(tokens[0]), tokens[2:]
    name, options = parse_call(_joined(tokens))
    function = resolve(name, _table(), kind="loss")
    accepted = _check_options(name, function, options)
    if ignore_label is not None and "ignore_label" in accepted:
        options = {"ignore_label": ignore_label, **options}
    takes_axis = "axis_name" in accepted and "axis_name" not in options

    def term(logits: Logits, labels: Labels, *, axis_name: AxisName = None) -> Float[Array, "B"]:
        return function(logits, labels, **options, **({"axis_name": axis_name} if takes_axis else {}))

    return weight, term


def _joined(tokens: list[str]) -> str:
    """Tokens as text again, with a blank only where two words would run together."""
    text = ""
    for token in tokens:
        words = bool(text) and (text[-1].isalnum() or text[-1] == "_") and (token[0].isalnum() or token[0] == "_")
        text += f" {token}" if words else token
    return text


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"The factor of a loss term should be a number, but is {text!r}.") from error


def _check_options(name: str, function: Callable, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the options that a loss knows; raises UserError if one given is unknown or a required one missing."""
    parameters = inspect.signature(function).parameters.values()
    known = [one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)][2:]
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return ("ignore_label", "axis_name", *known)
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(f"The loss {name} has no option {option!r}; {hint}Known: {', '.join(known)}.")
    missing = [
        one.name for one in parameters if one.name in known and one.default is one.empty and one.name not in options
    ]
    if missing:
        raise UserError(f"The loss {name} needs the option {' and '.join(missing)}, as in {name}({missing[0]}=...).")
    return tuple(known)
