"""Writes a run as a folder of `transformers`."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from lm.chat import template_files
from lm.chat.chat_template import ChatTemplate
from lm.errors import UserError
from lm.inference import model_card, prompting
from lm.interop import (
    exported_folder,
    gguf_files,
    gguf_tokenizer,
    heads,
    hugging_face,
    tokenizer_files,
)
from lm.loading import task_model
from lm.loading.run import Run
from lm.models import mup
from lm.tokenizers import stop_ids as stop_ids_lib

_UNSTATED = model_card.Stated()


def export(
    run: Run,
    target: str | os.PathLike[str],
    *,
    gguf_type: str = "",
    stated: model_card.Stated = _UNSTATED,
) -> None:
    """Writes a folder that the Auto classes of `transformers` load.

    A fine-tuned run's adapters are merged; its head stays where `transformers` has the same. The
    multipliers of muP go into the weights. What people must know of the result is printed.

    Args:
      run: of `lm.load`.
      target: a folder that does not exist yet.
      gguf_type: "", or of `gguf_files.TYPES`: then weights and tokenizer are in one GGUF, too.
      stated: for the model card.

    Raises:
      UserError: the folder exists, or a shape that `transformers`, or a GGUF, does not know.
    """
    source, target = run.folder, pathlib.Path(target)
    if target.exists():
        raise UserError(f"target={target} exists already; name a new folder")
    model = run.config["model"]
    dtype = run.config.get("weights_dtype", "float32")
    model_type = hugging_face.model_type_of(model)
    family = hugging_face.FAMILIES[model_type]
    has_head = "body" in run.params
    template, notes = prompting.chat_template(run), []
    ends = prompting.stops(run.tokenizer, template)
    if gguf_type:
        gguf_files.check(model_type, has_head=has_head)
        model, notes = gguf_files.without_window(model)
        vocabulary = _gguf_vocabulary(run, model["vocab_size"], ends.ids, template)
        notes += vocabulary.notes
    if has_head:
        if "crf" in run.params:
            raise UserError(f"source={source} has a CRF, which transformers has not")
        kind, labels = run.config["task"]["kind"], task_model.labels_of(run.config)
        family = heads.with_head(model, kind, labels)
    target.mkdir(parents=True)
    params = jax.tree.map(np.asarray, run.params)
    model, params = mup.folded(model, params, model_config(run.model), has_output=not has_head)
    # A head that was trained here has seen no text longer than data.seq_len.
    has_own_head = has_head and "source" not in run.config
    has_pad = not task_model.ends_with_padding(run, run.tokenizer.pad_id)
    ids = {
        f"{name}_token_id": token_id
        for name in ("bos", "eos", *["pad"] * has_pad)
        if (token_id := getattr(run.tokenizer, f"{name}_id")) is not None
    }
    tokenizer_files.save(
        run.tokenizer,
        target,
        frames=prompting.frames_of(run),
        max_len=model.get("max_len"),
        num_types=model.get("num_types", 1),
        cut_to=run.config["data"]["seq_len"] if has_own_head else None,
        has_pad=has_pad,
    )
    is_folder = hugging_face.is_folder(source)
    generation = stop_ids_lib.unread(source if is_folder else source / "tokenizer")
    exported_folder.save_config(target, family, model, dtype, ids, ends.ids, generation)
    if gguf_type:
        gguf_files.save(
            target / f"model-{gguf_type}.gguf",
            family,
            model,
            params,
            vocabulary.metadata,
            kind=gguf_type,
            name=source.resolve().name,
        )
    else:
        exported_folder.save_weights(target, family, model, params, dtype)
    kind = hugging_face.load_config(target)["architectures"][0]
    library, use = "transformers", _USE.format(kind=kind)
    if gguf_type:
        library, use = "gguf", f"llama-server --model model-{gguf_type}.gguf"
    model_card.write(run, target, stated, library=library, use=use)
    for note in notes:
        print(note)
    for text in ends.strings:
        print(
            f"its chat template ends answers with the text {text!r}, which generate of transformers"
            f" stops at if it is given stop_strings=[{text!r}] and the tokenizer"
        )
    template_files.copy(source, target)
    if not has_pad:
        print(
            "no padding token is named, for it is the one that ends each text, which transformers "
            "would not look at: it reads one text at a time there (batch_size=1)"
        )
    if tokenizer_files.normalizes(run.tokenizer):
        print(
            "its tokenizer normalises text; what transformers reads may differ for letters with "
            "several marks on them"
        )
    if not tokenizer_files.is_read_back(target):
        print(
            "AutoTokenizer of transformers takes a class of its own for this model_type; read the "
            f"tokenizer by transformers.PreTrainedTokenizerFast.from_pretrained({str(target)!r})"
        )


_USE = """\
from transformers import AutoTokenizer, {kind}

model = {kind}.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
"""


def _gguf_vocabulary(
    run: Run, num_rows: int, stop_ids: Sequence[int], template: ChatTemplate | None
) -> gguf_tokenizer.Vocabulary:
    frames = prompting.frames_of(run)
    return gguf_tokenizer.metadata(
        run.tokenizer,
        num_rows=num_rows,
        start=frames[0].special_ids[0] if frames else run.tokenizer.prefix_ids,
        stop_ids=stop_ids,
        templates=template.sources if template else {},
    )


def model_config(model: nn.Module) -> Any:
    """Returns the hyperparameters of a language model, or of a task model's body."""
    return model.body.config if hasattr(model, "body") else model.config
