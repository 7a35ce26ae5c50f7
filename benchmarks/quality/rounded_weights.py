"""What does decoding in fewer bits cost in quality? `python -m benchmarks.quality.rounded_weights`

    python -m benchmarks.quality.rounded_weights RUN_OR_FOLDER 'texts/*.txt' --num_bytes=200000

Reads texts by the decode step itself, as a served model does, and prints a JSON line for each way
to hold the weights: bits per byte, beside float32's.
"""

import argparse
import dataclasses
import glob
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.generation.decoding import of_known_ids
from lm.loading import run as run_lib
from lm.models import int8, kv_cache
from lm.models.parameters import Params

_SEQ_LEN, _NUM_ROWS = 256, 8  # Of a batch.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("texts", help="files, as a pattern")
    parser.add_argument("--num_bytes", type=int, default=200_000, help="of all texts together")
    args = parser.parse_args()
    run = run_lib.load(args.folder)
    text = "\n".join(pathlib.Path(name).read_text() for name in sorted(glob.glob(args.texts)))
    text = text.encode()[: args.num_bytes].decode(errors="ignore")
    length = min(_SEQ_LEN, run.model.config.max_len or _SEQ_LEN)
    ids = np.asarray(run.tokenizer.encode_batch([text])[0], np.int32)
    batch = _NUM_ROWS * length
    num_batches = (len(ids) - 1) // batch
    inputs_NBL = ids[: num_batches * batch].reshape(-1, _NUM_ROWS, length)
    targets_NBL = ids[1 : num_batches * batch + 1].reshape(-1, _NUM_ROWS, length)
    num_bytes = len(run.tokenizer.decode(targets_NBL.reshape(-1).tolist()).encode())
    exact = None
    for way in ("float32", "bfloat16", "int8"):
        dtype = "float32" if way == "int8" else way
        model = type(run.model)(dataclasses.replace(run.model.config, dtype=dtype))
        params = kv_cache.unstack_layers(run.params, dtype)
        if way == "int8":
            params = int8.quantize_for_decoding(params)
        nats = _nats(model, params, inputs_NBL, targets_NBL, run.tokenizer.vocab_size)
        found = nats / math.log(2) / num_bytes
        exact = exact or found
        line = {
            "weights": way,
            "bits_per_byte": round(found, 5),
            "more": round(found / exact - 1, 5),
        }
        print(json.dumps(line | {"num_bytes": num_bytes}), flush=True)


def _nats(
    model: nn.Module, params: Params, inputs_NBL: np.ndarray, targets_NBL: np.ndarray, vocab: int
) -> float:
    """Adds up what the decode step makes of rows that it reads whole."""
    c = model.config
    positions_BL = np.broadcast_to(np.arange(inputs_NBL.shape[2]), inputs_NBL.shape[1:])
    kept = dict(num_kv_heads=getattr(c, "num_kv_heads", c.num_heads), head_dim=c.head_dim)
    cache = kv_cache.empty(*positions_BL.shape, **kept, dtype=jnp.dtype(c.dtype))

    @jax.jit
    def of_batch(params, inputs_BL, targets_BL):
        output, _ = model.apply(
            {"params": params},
            inputs_BL,
            positions_BL,
            [cache] * c.num_layers,
            method="decode_step",
        )
        table_VD, hidden_ND = output.unembed_VD, output.hidden_BLD.reshape(-1, c.model_dim)
        if isinstance(table_VD, int8.Int8Matrix):
            logits_NV = table_VD.product(hidden_ND)
        else:
            logits_NV = (hidden_ND @ table_VD.astype(hidden_ND.dtype).T).astype(jnp.float32)
        log_probs_NV = jax.nn.log_softmax(of_known_ids(logits_NV, vocab))
        return -jnp.take_along_axis(log_probs_NV, targets_BL.reshape(-1, 1), axis=1).sum()

    return sum(float(of_batch(params, *pair)) for pair in zip(inputs_NBL, targets_NBL, strict=True))


if __name__ == "__main__":
    main()
