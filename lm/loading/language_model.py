"""Opens a finished (or running) run, or a folder of `transformers` as if it were one."""

import pathlib
from typing import Any, NamedTuple

from flax import linen as nn

from lm.errors import UserError
from lm.interop import hugging_face
from lm.interop.weights import shapes_by_path
from lm.loading.run_folder import imported_config, load_config, on_this_machine
from lm.models.factory import make_model
from lm.models.families import param_shapes
from lm.models.parameters import Params
from lm.run import workdir as workdir_lib
from lm.tokenizers import tokenizers
from lm.train.checkpoints import restore_params


class SavedRun(NamedTuple):
    """Holds a run of pretraining, or a folder of `transformers` as the run it would become."""

    folder: pathlib.Path
    config: dict[str, Any]  # As the run wrote it.
    model: nn.Module
    step: int
    params: Any
    tokenizer: tokenizers.Tokenizer


def load(folder: pathlib.Path, *, sequence_parts: int = 1) -> SavedRun:
    """Opens a run's best checkpoint where its config names a metric, else the newest; averaged
    weights where it keeps them.

    Args:
      folder: of the run, or of `transformers`, whose model is then at step 0.
      sequence_parts: devices that its model will read each row with.

    Raises:
      UserError: neither, a run without a checkpoint, or a config.json that the parameters do not
        fit.
    """
    is_imported = hugging_face.is_folder(folder)
    if is_imported:
        config = imported_config(hugging_face.load_model_block(folder), str(folder))
    else:
        config = load_config(folder)
    causal = "objective" not in config or config["objective"]["kind"] == "causal"
    block = on_this_machine(config["model"])
    model = make_model(block, causal=causal, sequence_parts=sequence_parts)
    if is_imported:
        shapes = shapes_by_path(param_shapes(model))
        loaded = hugging_face.load_params(folder, shapes, leave_out="heads")
        hugging_face.say_what_is_left(folder, loaded)
        return SavedRun(folder, config, model, 0, loaded.params, tokenizers.load_file(folder))
    # What was imported has one checkpoint, and no block that says which counts.
    names = ("best_metric", "best_mode") if "checkpoint" in config else ()
    policy = {name: config["checkpoint"][name] for name in names}
    step, params, _ = restore_params(folder / "checkpoints", **policy)
    check_shapes(folder, params, param_shapes(model))
    return SavedRun(folder, config, model, step, params, tokenizers.load(folder / "tokenizer"))


def check_shapes(folder: pathlib.Path, params: Params, expected: Params) -> None:
    """Raises UserError where a checkpoint does not hold the parameters that config.json asks for.

    Args:
      folder: of the run.
      params: what was restored.
      expected: of the model; shapes are enough.
    """
    found, wanted = shapes_by_path(params), shapes_by_path(expected)
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise UserError(
                f"{folder}: {'/'.join(path)} has shape {found.get(path)} in its checkpoint, and "
                f"{workdir_lib.CONFIG} asks for {wanted.get(path)}; restore the "
                f"{workdir_lib.CONFIG} that made it"
            )
