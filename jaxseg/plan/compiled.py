"""What a compiled program needs: memory, operations and messages between devices, read from the compiler itself."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_BITS = re.compile(r"[a-z]+?(\d+)")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_CALL = re.compile(rf"= (?P<type>.+?) (?P<kind>{'|'.join(COLLECTIVES)})(?P<start>-start)?\(")


class Traffic(NamedTuple):
    """Messages of one kind in a program: how many, and bytes of their results on one device."""

    messages: int
    bytes: int


class Cost(NamedTuple):
    """One device's share of a program.

    Attributes:
      arguments, outputs, temporaries, code: bytes.
      aliased: bytes of outputs that lie where donated arguments lay.
      flops: floating-point operations, as the compiler counts them.
      bytes_accessed: of memory, likewise.
      collectives: messages by kind; None where the program's text could not be read.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    flops: float
    bytes_accessed: float
    collectives: dict[str, Traffic] | None

    @property
    def peak(self) -> int:
        """Bytes in use at most: an upper bound, since the compiler does not say when each lives."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


def cost(compiled: Any) -> Cost:
    """Reads a compiled program, as `jax.jit(f).lower(...).compile()` returns it."""
    memory, counted = compiled.memory_analysis(), compiled.cost_analysis()
    counted = counted[0] if isinstance(counted, list) else counted
    return Cost(
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=float(counted.get("flops", float("nan"))),
        bytes_accessed=float(counted.get("bytes accessed", float("nan"))),
        collectives=_messages(compiled),
    )


def _messages(compiled: Any) -> dict[str, Traffic] | None:
    """A TPU compiler newer than jaxlib may write what it cannot print (libtpu 0.0.52 for v6e under jaxlib 0.10.2)."""
    try:
        return collectives(compiled.as_text())
    except jax.errors.JaxRuntimeError:
        return None


def collectives(program: str) -> dict[str, Traffic]:
    """Counts the messages in the text of a compiled program; one inside a loop counts once."""
    found: dict[str, Traffic] = {}
    for match in _CALL.finditer(program):
        parts = _SHAPE.findall(match["type"])
        if match["start"] and match["kind"] != "all-reduce" and len(parts) > 1:
            parts = parts[1:2]  # (operand, result, ...): the result travels
        before = found.get(match["kind"], Traffic(0, 0))
        found[match["kind"]] = Traffic(before.messages + 1, before.bytes + sum(_bytes(*part) for part in parts))
    return found


def _bytes(kind: str, dimensions: str) -> int:
    bits = _BITS.match(kind)
    size = int(bits[1]) if bits else 8  # pred
    for extent in filter(None, dimensions.split(",")):
        size *= int(extent)
    return -(-size // 8)


def as_json(found: Cost) -> Mapping[str, Any]:
    """Returns the figures with their sum, for files."""
    known = found.collectives
    traffic = None if known is None else {kind: value._asdict() for kind, value in known.items()}
    return {**found._asdict(), "collectives": traffic, "peak": found.peak}
