"""Numbers of threads of a worker, as environment variables that libraries read when they are imported."""

import os

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


def thread_variables(cores: float, workers: int) -> dict[str, str]:
    """Return the variables of a worker that shares cores with others; those that are set here have their value."""
    count = str(max(int(cores // workers), 1))
    return {name: os.environ.get(name, count) for name in THREADS}
