"""Run folders that a config names."""

import pathlib

import ml_collections

from lm.errors import UserError
from lm.loading.run_folder import has_tokenizer, tokenizer_block


def folder_of(config: ml_collections.ConfigDict) -> pathlib.Path:
    """The folder that `checkpoint` names.

    Raises:
      UserError: it is not set.
    """
    if not config.checkpoint:
        raise UserError("checkpoint is not set; give a run's folder: --config.checkpoint=runs/NAME")
    return pathlib.Path(config.checkpoint)


def with_own_tokenizer(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> ml_collections.ConfigDict:
    """A copy that reads the tokenizer's copy in the workdir, where a run goes on that read a file.

    So a run keeps its ids and special tokens, whatever becomes of the file or of how it is read.
    """
    config = config.copy_and_resolve_references()
    if config.tokenizer.kind == "file" and has_tokenizer(workdir):
        config.tokenizer = ml_collections.ConfigDict(tokenizer_block(workdir))
    return config
