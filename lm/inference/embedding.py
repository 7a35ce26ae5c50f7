"""Makes vectors of texts by what an encoder makes of their tokens.

Dimension key: N texts, B batch, L length, D model width.
"""

import functools
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lm.errors import UserError
from lm.generation.decoding import filled
from lm.inference.few_shapes import FewShapes
from lm.loading import task_model
from lm.loading.run import Run
from lm.models import heads
from lm.models.factory import family_named
from lm.settings import choose
from lm.tasks.factory import text_inputs
from lm.tasks.text import TextInputs

POOLINGS = ("mean", "first")


class Embedder:
    """Gives each text a vector of length 1: of its tokens' states, special ones included, the mean
    (Reimers & Gurevych 2019, section 3) or the first.

    Args:
      run: of an encoder, pretrained or fine-tuned.
      pooling: of `POOLINGS`.

    Raises:
      UserError: the run is of another architecture.
    """

    def __init__(self, run: Run, *, pooling: str):
        choose("pooling", pooling, POOLINGS)
        block = run.config["model"]
        family = family_named(block["name"])
        if family.architecture != "encoder":
            raise UserError(
                f"{run.folder} is a model of {block['name']}, which makes no vectors of texts; "
                "take an encoder, such as one of bert"
            )
        config = (
            run.model.body.config
            if isinstance(run, task_model.SavedTaskModel)
            else (run.model.config)
        )
        self._body, self._params = family.body(config), run.params
        for name in ("body",) if isinstance(run, task_model.SavedTaskModel) else family.body_path:
            self._params = self._params[name]
        self.max_len, self._pooling = config.max_len, pooling
        self._shapes = FewShapes(longest=self.max_len)
        text_inputs(block, run.tokenizer, seq_len=self.max_len, truncate=False)  # Checks the two.
        self._inputs = TextInputs(
            run.tokenizer,
            family,
            num_types=block.get("num_types", 1),
            seq_len=sys.maxsize,  # Whoever has ids of elsewhere is told of their length as well.
            truncate=False,
        )

    def compile(self) -> None:
        """Compiles all that can occur."""
        for num_rows, length in self._shapes:
            texts = filled([[0] * length] * num_rows, length)
            self._vectors.lower(self._params, *texts).compile()

    def ids(self, name: str, text: str) -> list[int]:
        """Returns the tokens of a text, with special ones; `name` is what errors call it.

        Raises UserError where there are none.
        """
        return self._inputs.encode(name, [text])["tokens_BL"].tolist()

    def __call__(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Makes vectors of texts that are tokens already -> N x D, float32.

        Raises UserError where one has more tokens than the model has positions.
        """
        longest = max(map(len, texts))
        if longest > self.max_len:
            raise UserError(
                f"a text of {longest} tokens exceeds the model's {self.max_len}; cut it"
            )
        found: dict[int, np.ndarray] = {}
        for here, num_rows, length in self._shapes.groups(list(map(len, texts))):
            rows = [texts[i] for i in here] + [texts[here[0]]] * (num_rows - len(here))
            vectors_BD = self._vectors(self._params, *filled(rows, length))
            found |= dict(zip(here, np.asarray(vectors_BD), strict=False))
        return np.stack([found[i] for i in range(len(texts))])

    @functools.cached_property
    def _vectors(self):
        pool = heads.mean if self._pooling == "mean" else _first

        @jax.jit
        def vectors(params, tokens_BL, lengths_B):
            batch = {"tokens_BL": tokens_BL, "length_B": lengths_B}
            inputs = self._inputs.inputs(batch | {"types_BL": jnp.zeros_like(tokens_BL)})
            x_BLD = self._body.apply({"params": params}, **inputs, method="hidden_states")
            x_BD = pool(x_BLD, lengths_B[:, None])[:, 0].astype(jnp.float32)
            return x_BD / jnp.maximum(jnp.linalg.norm(x_BD, axis=1, keepdims=True), 1e-12)

        return vectors


def _first(x_BLD: jax.Array, length_BE: jax.Array) -> jax.Array:
    del length_BE
    return x_BLD[:, :1]
