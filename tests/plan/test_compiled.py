"""What the compiler says: messages counted in a program's text by hand, sizes of a program that one can count."""

import jax
import jax.numpy as jnp
import pytest

from jaxseg import plan
from jaxseg.plan import targets
from jaxseg.typing import UserError

PROGRAM = """
  %all-reduce.1 = f32[4,8]{1,0} all-reduce(%add), channel_id=1, replica_groups=[1,4]<=[4]
  %all-reduce.2 = (f32[3]{0}, bf16[5]{0}) all-reduce(%a, %b), channel_id=2
  %permute = (f32[2,6]{1,0:T(8,128)}, f32[2,6]{1,0}, u32[]{:S(2)}, u32[]) collective-permute-start(%halo), channel_id=3
  %done = f32[2,6]{1,0} collective-permute-done(%permute)
  %gather = s8[16]{0} all-gather(%x), channel_id=4
  %fusion = f32[9]{0} fusion(%all-reduce.1), kind=kLoop
"""


def test_messages_by_hand():
    found = plan.collectives(PROGRAM)
    assert found == {
        "all-reduce": plan.Traffic(2, 4 * 8 * 4 + 3 * 4 + 5 * 2),
        "collective-permute": plan.Traffic(1, 2 * 6 * 4),
        "all-gather": plan.Traffic(1, 16),
    }
    assert plan.collectives("%x = f32[2]{0} add(%a, %b)") == {}


def test_sizes_of_a_product():
    shapes = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((32, 16), jnp.float32)
    found = plan.cost(jax.jit(lambda a, b: a @ b).lower(*shapes).compile())
    assert (found.arguments, found.outputs, found.aliased) == (4 * (64 * 32 + 32 * 16), 4 * 64 * 16, 0)
    assert found.flops == 2 * 64 * 32 * 16 and not found.collectives
    assert found.peak == found.arguments + found.outputs + found.temporaries + found.code
    assert plan.as_json(found)["peak"] == found.peak


def test_targets():
    assert targets.memory("v5e:4x4", 16) == 16 * 2**30 and targets.memory("cpu", 2) is None
    assert targets.memory("v4:2x2x1", 8) == 16 * 2**30  # two devices a chip
    assert len(targets.devices("cpu")) == jax.device_count("cpu")
    for wrong in ("v5e", "h100", "v5e:4", "cpu:2"):
        with pytest.raises(UserError, match="--target should be cpu or a TPU topology"):
            targets.devices(wrong)


def test_a_program_that_cannot_be_printed_still_has_its_memory():
    """As libtpu's for v6e, which an older jaxlib does not know how to read."""
    whole = jax.jit(lambda a: a + 1).lower(jax.ShapeDtypeStruct((8,), jnp.float32)).compile()

    class Unreadable:
        memory_analysis, cost_analysis = whole.memory_analysis, whole.cost_analysis

        def as_text(self):
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    found = plan.cost(Unreadable())
    assert found.collectives is None and found.peak == plan.cost(whole).peak > 0
    assert plan.as_json(found)["collectives"] is None
