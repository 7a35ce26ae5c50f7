"""Runs this folder's model with JAX alone: pip install jax flatbuffers.

python loader.py 5 17 4    # Token ids of a prompt; writes on greedily. tokenizer.json has the ids.
"""

import json
import pathlib
import sys

import jax
import numpy as np
from jax import export
from jax import numpy as jnp


def read_weights(path: pathlib.Path) -> dict[str, jax.Array]:
    """Reads a file of safetensors: the length of its header, 8 bytes; the header; the numbers."""
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    dtypes = {"F32": jnp.float32, "BF16": jnp.bfloat16}

    def read(dtype: str, shape: list[int], data_offsets: list[int]) -> jax.Array:
        first, end = data_offsets
        return jnp.asarray(data[start + first : start + end].view(dtypes[dtype]).reshape(shape))

    return {name: read(**info) for name, info in header.items() if name != "__metadata__"}


class Model:
    """Reads prompts, then a token a step: `settings` says how long prompts and texts may be."""

    def __init__(self, folder: str | pathlib.Path):
        folder = pathlib.Path(folder)
        load = lambda name: export.deserialize(bytearray((folder / name).read_bytes())).call
        self.settings = json.loads((folder / "settings.json").read_text())
        self.weights = read_weights(folder / "weights.safetensors")
        lengths = sorted(self.settings["prompt_lens"])
        self._prefills = {length: jax.jit(load(f"prefill_{length}.bin")) for length in lengths}
        self._step = jax.jit(load("step.bin"), donate_argnums=3)

    def prefill(self, prompts):
        """Ids of each prompt -> logits of the next token, B x V; its position, B; the caches."""
        lengths = np.array([len(prompt) for prompt in prompts], np.int32)
        length = next((length for length in self._prefills if length >= lengths.max()), None)
        if length is None:
            raise ValueError(f"{lengths.max()} tokens; prompts have {max(self._prefills)} at most")
        tokens = np.zeros((len(prompts), length), np.int32)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = prompt
        logits, caches = self._prefills[length](self.weights, tokens, lengths)
        return logits, lengths, caches

    def step(self, tokens, positions, caches):
        """Ids of new tokens and their positions, B each -> logits of the next, and new caches."""
        return self._step(self.weights, np.int32(tokens), np.int32(positions), caches)

    def generate(self, prompt, num_new):
        """Writes on greedily, up to a token that ends a text."""
        if len(prompt) + num_new > self.settings["cache_len"]:
            raise ValueError(f"num_new={num_new} exceeds {self.settings['cache_len']} positions")
        logits, position, caches = self.prefill([prompt])
        written = [int(logits.argmax())]
        while len(written) < num_new and written[-1] not in self.settings["stop_ids"]:
            logits, caches = self.step(written[-1:], position, caches)
            position, written = position + 1, [*written, int(logits.argmax())]
        return written


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    print(*Model(here).generate([int(word) for word in sys.argv[1:]], num_new=20))
