"""One battery over every network of the table: shapes, jit equals eager, finite gradients, bfloat16, both ranks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import losses, models, tasks

# One tiny variant a network, of each rank that it has; a new entry of the table must appear here.
TINY = {
    "unet": [{"ndim": 2, "features": (4, 8)}, {"ndim": 3, "features": (4, 8)}],
    "unet2015": [{"ndim": 2, "features": (4, 8)}],
}
VARIANTS = [(name, fields) for name, variants in TINY.items() for fields in variants]
CLASSES = 3


def test_every_network_is_covered():
    assert set(models.names()) == set(TINY)


@pytest.fixture(params=VARIANTS, ids=lambda variant: f"{variant[0]}-{variant[1]['ndim']}d")
def variant(request):
    name, fields = request.param
    shape = (2, 8, 12, 16, 1) if fields["ndim"] == 3 else (2, 8, 12, 1)
    model = models.create(name, num_classes=CLASSES, **fields)
    image = jax.random.normal(jax.random.key(0), shape)
    return (
        name,
        fields,
        model,
        image,
        jax.jit(model.init, static_argnames="train")(jax.random.key(1), image, train=False),
    )


def test_logits_have_the_shape_and_type_that_all_rely_on(variant):
    _, _, model, image, variables = variant
    logits, aux = jax.jit(model.apply, static_argnames="train")(variables, image, train=False)
    assert logits.shape == (*image.shape[:-1], CLASSES) and logits.dtype == jnp.float32 and isinstance(aux, dict)
    eager, _ = model.apply(variables, image, train=False)
    np.testing.assert_allclose(logits, eager, atol=1e-4)
    alone, _ = model.apply(variables, image[:1], train=False)
    np.testing.assert_allclose(eager[:1], alone, atol=1e-4)  # a sample does not depend on its batch


def test_gradients_are_finite_on_an_image_without_foreground(variant):
    _, _, model, image, _ = variant
    loss = losses.from_string("dice_loss(ignore_background=True) + cross_entropy")
    task = tasks.semantic(model, loss, num_classes=CLASSES)
    params, extra = task.init(jax.random.key(2), image)
    batch = {"image": image, "label": jnp.zeros(image.shape[:-1], jnp.int32)}

    def value(own):
        return task.losses["model"]({"model": own}, extra, batch, jax.random.key(3))[0]

    gradients = jax.jit(jax.grad(value))(params["model"])
    leaves = jax.tree.leaves(gradients)
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert sum(float(jnp.abs(leaf).sum()) for leaf in leaves) > 0


def test_bfloat16_compute_keeps_float32_parameters(variant):
    name, fields, _, image, variables = variant
    model = models.create(name, num_classes=CLASSES, dtype="bfloat16", **fields)
    logits, _ = jax.jit(model.apply, static_argnames="train")(variables, image, train=False)
    assert logits.dtype == jnp.float32 and np.isfinite(logits).all()
    stored = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {jnp.dtype("float32")}
