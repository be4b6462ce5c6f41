"""Several CPU devices, for a process that a test starts."""

import os


def several(count: int) -> dict[str, str]:
    """The environment variable that gives a process `count` devices, beside the flags that all tests run with."""
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()}
