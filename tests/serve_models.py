"""Models as configs/serve.py opens them, for tests."""

from configs import serve
from lm.parallel.mesh import make_mesh
from lm.serve import opening


def open_model(name, folder, **changes):
    """The model of a folder under this name, with room for 96 tokens."""
    config = serve.get_config()
    names = ("max_waiting", "prefix_bytes", "exact", "int8", "pooling", "batch_size")
    settings = {name: config[name] for name in names} | changes
    mesh = make_mesh(**config.parallel)
    return opening.open_model(name, folder, mesh=mesh, num_slots=8, max_len=96, **settings)
