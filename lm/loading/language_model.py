"""Opens a finished (or running) run, or a folder of `transformers` as if it were one."""

import pathlib
from typing import Any, NamedTuple

from flax import linen as nn
from flax.traverse_util import flatten_dict

from lm.errors import UserError
from lm.interop import hugging_face
from lm.loading.run_folder import imported_config, load_config, on_this_machine
from lm.models.factory import make_model
from lm.models.families import param_shapes
from lm.models.parameters import Params
from lm.run import workdir as workdir_lib
from lm.tokenizers import tokenizers
from lm.train.checkpoints import restore_params


class SavedRun(NamedTuple):
    """A run of pretraining, opened; of a folder of `transformers`, what it would be imported as.

    config: as the run wrote it.
    """

    folder: pathlib.Path
    config: dict[str, Any]
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
        block = hugging_face.load_model_block(folder)
        config = imported_config(block, str(folder))
    else:
        config = load_config(folder)
    causal = "objective" not in config or config["objective"]["kind"] == "causal"
    block = on_this_machine(config["model"])
    model = make_model(block, causal=causal, sequence_parts=sequence_parts)
    if is_imported:
        shapes = {path: x.shape for path, x in flatten_dict(param_shapes(model)).items()}
        loaded = hugging_face.load_params(folder, shapes, leave_out="heads")
        hugging_face.say_what_is_left(folder, loaded)
        return SavedRun(folder, config, model, 0, loaded.params, tokenizers.load_file(folder))
    step, params, _ = restore_params(folder / "checkpoints", **_best(config))
    check_shapes(folder, params, param_shapes(model))
    return SavedRun(folder, config, model, step, params, tokenizers.load(folder / "tokenizer"))


def check_shapes(folder: pathlib.Path, params: Params, expected: Params) -> None:
    """Raises UserError where a checkpoint does not hold the parameters that config.json asks for.

    Args:
      folder: of the run.
      params: what was restored.
      expected: of the model; shapes are enough.
    """
    found, wanted = flatten_dict(params), flatten_dict(expected)
    for path in sorted(found.keys() | wanted.keys()):
        shapes = [tree[path].shape if path in tree else None for tree in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{folder}: {'/'.join(path)} has shape {shapes[0]} in its checkpoint, and "
                f"{workdir_lib.CONFIG} asks for {shapes[1]}; restore the {workdir_lib.CONFIG} that "
                "made it"
            )


def _best(config: dict[str, Any]) -> dict[str, str]:
    """Which checkpoint of a run counts; what was imported has one."""
    if "checkpoint" not in config:
        return {}
    return {name: config["checkpoint"][name] for name in ("best_metric", "best_mode")}
