"""Files that may not grow, as where `ulimit -f` or a full disk forbids it."""

import contextlib
import resource


@contextlib.contextmanager
def file_limit(num_bytes):
    """This process writes no file beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
