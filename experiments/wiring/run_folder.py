"""Run folders that a config names."""

import pathlib

import ml_collections

from lm.errors import UserError
from lm.loading.run_folder import has_tokenizer, tokenizer_block


def folder_of(checkpoint: str) -> pathlib.Path:
    """The folder that `checkpoint` names.

    Raises:
      UserError: it is not set.
    """
    if not checkpoint:
        raise UserError("checkpoint is not set; give a run's folder: --config.checkpoint=runs/NAME")
    return pathlib.Path(checkpoint)


def own_tokenizer(
    tokenizer: ml_collections.ConfigDict, workdir: pathlib.Path
) -> ml_collections.ConfigDict:
    """This `tokenizer` block; or, where a run goes on that read a file, that of its copy there.

    So a run keeps its ids and special tokens, whatever becomes of the file or of how it is read.
    """
    if tokenizer.kind == "file" and has_tokenizer(workdir):
        return ml_collections.ConfigDict(tokenizer_block(workdir))
    return tokenizer
