"""A Ray of two CPUs on this machine, for tests and benchmarks."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.helpers.source_files import ROOT


def ray_environment() -> dict[str, str]:
    """Return environment variables for a Ray whose workers import this tree, and which writes no token to the home."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    return {**variables, "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(32)}


@contextmanager
def local_ray(cpus: int = 2) -> Iterator[None]:
    """Start Ray for the duration of the context."""
    os.environ.update(ray_environment())
    import ray

    options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address="local", num_cpus=cpus, object_store_memory=80 << 20, **options)
        yield
    finally:
        ray.shutdown()
