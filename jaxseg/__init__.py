"""Medical image segmentation as pure functions in JAX; rooms are imported by name (`from jaxseg import ops`)."""

__version__ = "0.1.0"
