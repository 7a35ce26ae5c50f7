"""Moves weights, hyperparameters and tokenizers between runs and folders of `transformers`."""

import json
import pathlib
import tempfile

import jax
import ml_collections
import numpy as np
import tokenizers as tokenizers_lib
from flax.traverse_util import flatten_dict

from experiments import build, runs
from experiments.shown import command
from lm import workdir as workdir_lib
from lm.data import tokenizers
from lm.errors import UserError
from lm.interop import hugging_face, tokenizer_files
from lm.models.families import init_params, param_shapes
from lm.train.checkpoints import Checkpoints, write_numpy_as_it_is
from lm.train.state import TrainState


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """From `source` to `target`, in the direction that `source` tells; `workdir` is not used."""
    del workdir
    if not config.source or not config.target:
        raise UserError("name both folders: --config.source=DIR --config.target=DIR")
    source, target = pathlib.Path(config.source), pathlib.Path(config.target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"target={target} exists already; name a new folder")
    try:
        beside = tempfile.TemporaryDirectory(dir=workdir_lib.existing_part(target.parent))
    except OSError as error:
        raise UserError(f"target={target} cannot be made ({error}); name another folder") from None
    # Built on the same disk and moved there whole: a failure leaves nothing behind.
    with beside as folder:
        partial = pathlib.Path(folder) / "partial"
        if hugging_face.is_folder(source):
            import_folder(config, source, partial)
            then = ["--config=configs/generate.py", f"--config.checkpoint={target}"]
        elif (source / "config.json").exists():
            export_run(source, partial)
            then = []
        else:
            raise UserError(f"source={source} is neither a run nor a folder of transformers")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)  # In place of an empty folder, if there is one.
    print(f"{source} -> {target}")
    if then:
        print(f"sample from it: {command(*then, '--config.prompt=def ')}")
    return 0


def import_folder(
    config: ml_collections.ConfigDict, source: pathlib.Path, target: pathlib.Path
) -> None:
    """A folder of `transformers` -> a run at step 0 that can be sampled, evaluated and trained on.

    Raises:
      UserError: see `lm.interop.hugging_face`.
    """
    block = hugging_face.load_model_block(source)
    model = build.make_model(ml_collections.ConfigDict(block), causal=True)
    shapes = flatten_dict(param_shapes(model))
    init = lambda: flatten_dict(jax.jit(lambda: init_params(model, jax.random.key(0)))())
    loaded = hugging_face.load_params(
        source,
        {path: x.shape for path, x in shapes.items()},
        initial=init if config.allow_missing else None,
        allow_unknown=config.allow_unknown,
    )
    for path in loaded.missing:
        print(f"missing, and drawn at random: {'/'.join(path)}")
    for key in loaded.unknown:
        print(f"unknown, and left out: {key}")
    params = loaded.params
    if config.vocab_size:
        params = hugging_face.resize_vocabulary(params, block["vocab_size"], config.vocab_size)
        block["vocab_size"] = config.vocab_size
    tokenizer = _import_tokenizer(source)
    if tokenizer.vocab_size > block["vocab_size"]:
        raise UserError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} tokens and the model only "
            f"{block['vocab_size']}; give it more with --config.vocab_size={tokenizer.vocab_size}"
        )
    made_by = {
        "experiment": "convert",
        "source": str(source),
        "weights_dtype": loaded.dtype,
        "model": block,
    }
    write_numpy_as_it_is()
    with (
        workdir_lib.opened(target, made_by, data_hash=""),
        Checkpoints(target / "checkpoints", keep_last=1) as checkpoints,
    ):
        tokenizer.save(target / "tokenizer")
        checkpoints.save(0, TrainState(np.int32(0), params, ()), {"num_tokens": 0}, {})


def export_run(source: pathlib.Path, target: pathlib.Path) -> None:
    """A run -> a folder that `AutoModelForCausalLM` and `AutoTokenizer` load.

    Raises:
      UserError: the run has no checkpoint, or a shape that `transformers` does not know.
    """
    loaded = runs.load(source)
    imported = loaded.config.experiment == "convert"
    dtype = loaded.config.weights_dtype if imported else "float32"
    target.mkdir(parents=True)
    params = jax.tree.map(np.asarray, loaded.params)
    ids = {
        f"{name}_token_id": token_id
        for name in ("bos", "eos", "pad")
        if (token_id := getattr(loaded.tokenizer, f"{name}_id")) is not None
    }
    model = loaded.config.model.to_dict()
    hugging_face.save(target, hugging_face.model_type_of(model), model, params, dtype, ids)
    tokenizer_files.save(loaded.tokenizer, target, model.get("max_len"))


def _import_tokenizer(source: pathlib.Path) -> tokenizers.Tokenizer:
    if (source / "tokenizer.json").exists():
        return tokenizers.load_file(source / "tokenizer.json")
    if (source / "vocab.txt").exists():
        return _as_file(_word_pieces(source))
    vocabulary, merges = source / "vocab.json", source / "merges.txt"
    if not (vocabulary.exists() and merges.exists()):
        raise UserError(
            f"{source} holds no tokenizer: neither tokenizer.json, nor vocab.txt, nor vocab.json "
            "with merges.txt; save it again with AutoTokenizer of transformers"
        )
    library = tokenizers_lib.ByteLevelBPETokenizer(str(vocabulary), str(merges))
    special = tokenizers_lib.AddedToken("<|endoftext|>", special=True, normalized=False)
    if library.token_to_id(special.content) is not None:
        library.add_special_tokens([special])
    return _as_file(library)


def _word_pieces(source: pathlib.Path) -> tokenizers_lib.BertWordPieceTokenizer:
    """BERT's own, which lowers case unless tokenizer_config.json says otherwise."""
    path = source / "tokenizer_config.json"
    settings = json.loads(path.read_text()) if path.exists() else {}
    library = tokenizers_lib.BertWordPieceTokenizer(
        str(source / "vocab.txt"), lowercase=settings.get("do_lower_case", True)
    )
    library.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return library


def _as_file(library) -> tokenizers.Tokenizer:
    """A tokenizer of the library, as the tokenizer.json that it would be saved as."""
    return tokenizers.HuggingFaceTokenizer({"tokenizer.json": library.to_str().encode()})
