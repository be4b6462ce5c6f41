"""jaxseg: medical image segmentation as pure functions in JAX. Rooms are imported by name: `from jaxseg import losses`."""

__version__ = "0.1.0"
