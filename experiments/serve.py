"""Serves runs, or folders of `transformers`, until it is told to stop."""

import os
import pathlib
import sys

import ml_collections

from experiments.wiring.number_ranges import folder_of
from lm.errors import UserError
from lm.parallel.mesh import make_mesh
from lm.settings import keywords


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Answers HTTP; `workdir` is not used, and nothing is written.

    Raises:
      UserError: before it listens, for what cannot be served.
    """
    del workdir
    try:
        from lm.serve import access, app, opening, server
        from lm.serve.metrics import Metrics
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise UserError(
            f"serving needs {error.name}; run: pip install -r requirements-serve.txt"
        ) from None
    folders = _folders(config.checkpoint)
    key = access.read_key(config.key_file, os.environ)
    allowed = access.Access(key, config.host, config.allowed_hosts)
    taken = server.bind(config.host, config.port)  # Before minutes of loading.
    mesh = make_mesh(**config.parallel)
    settings = {name: config[name] for name in keywords(opening.open_model) if name != "mesh"}
    models = [
        opening.open_model(name, folder, mesh=mesh, **settings) for name, folder in folders.items()
    ]
    for model in models if config.warm else ():
        for worker in model.workers.values():
            worker.warm()
    metrics = Metrics()
    opening.add_readings(metrics, models)
    say = lambda line: print(line, file=sys.stderr, flush=True)
    application = app.App(models, allowed, metrics, max_body_bytes=config.max_body_bytes, say=say)
    return server.serve(
        application,
        [worker for model in models for worker in model.workers.values()],
        taken,
        max_connections=config.max_connections,
        drain_seconds=config.drain_seconds,
        on_ready=lambda: print(_ready(server.address_of(taken), models), flush=True),
        say=say,
    )


def _folders(checkpoint: str) -> dict[str, pathlib.Path]:
    """Reads "runs/a,small=runs/b" as folders by the names that clients call them by."""
    found: dict[str, pathlib.Path] = {}
    for part in filter(None, (part.strip() for part in checkpoint.split(","))):
        named, _, place = part.rpartition("=")
        folder = folder_of(place)
        name = named or folder.resolve().name
        if name in found:
            raise UserError(
                f"checkpoint={checkpoint} has two models named {name}; write NAME=FOLDER for one"
            )
        found[name] = folder
    if not found:
        folder_of("")
    return found


def _ready(address: str, models: list) -> str:
    """Says where which models are served, and what they take."""
    lines = [f"ready at {address}/v1"]
    for model in models:
        does = ", ".join(model.workers)
        said = [f"{model.name}: {does}", f"{model.weight_bytes / 1e6:,.1f} MB of weights"]
        if model.service is not None:
            stats = model.service.stats()
            said.append(f"{stats['slots']} slots of {model.max_len} tokens")
            said.append(f"{stats['cache_bytes'] / 1e6:,.1f} MB of caches to begin with")
        lines.append("  " + "; ".join(said))
    return "\n".join(lines)
