"""Players small enough to check by hand: a generator of one number, a discriminator of two."""

import jax.numpy as jnp


class Generator:
    """Gives back the first `channels` of an image times its parameter, each voxel repeated as `factors` say.

    A style, where it takes one, is added: its first number. The collection "seen" counts the calls of training.
    """

    def __init__(self, *, gain: float = 1.0, channels: int = 1, style_features: int = 0, factors=None):
        self.gain, self.channels, self.style_features, self.factors = gain, channels, style_features, factors

    def init(self, keys, *given, train=False):
        assert set(keys) == {"params", "dropout"}
        return {"params": {"gain": jnp.float32(self.gain)}, "seen": {"calls": jnp.zeros(())}}

    def apply(self, variables, image, style=None, *, train=False, mutable=False, rngs=None):
        assert (style is not None) == bool(self.style_features)
        made = variables["params"]["gain"] * image[..., : self.channels]
        if style is not None:
            made = made + style[:, :1].reshape(-1, *(1,) * (made.ndim - 1))
        for axis, factor in enumerate(self.factors or ()):
            made = jnp.repeat(made, factor, axis=axis + 1)
        if not train:
            return made, {}
        assert mutable == ["seen"]
        return (made, {}), {"seen": {"calls": variables["seen"]["calls"] + 1}}


class Judge:
    """Takes the mean of a pixel's channels times `weight` plus `bias` for its logit, and the image for its features.

    With `scales` of 2 it answers twice, as judges of several resolutions do. The collection "spectral" counts the calls
    of training. What it is shown is kept in `shown`.
    """

    def __init__(self, *, weight: float = 1.0, bias: float = 0.0, scales: int = 1):
        self.start = {"weight": jnp.float32(weight), "bias": jnp.float32(bias)}
        self.scales, self.shown = scales, []

    def init(self, key, image, train=False):
        return {"params": dict(self.start), "spectral": {"calls": jnp.zeros(())}}

    def apply(self, variables, image, *, train=False, mutable=False):
        self.shown.append(image)
        own = variables["params"]
        logits = own["weight"] * image.mean(-1, keepdims=True) + own["bias"]
        answer = (logits, {"features": [image]})
        if self.scales > 1:
            answer = ([logits] * self.scales, {"features": [[image]] * self.scales})
        if not train:
            return answer
        assert mutable == ["spectral"]
        return answer, {"spectral": {"calls": variables["spectral"]["calls"] + 1}}
