"""Rows of texts that are written at once, and that join and leave at any step.

All programs are pure functions of arrays, compiled once for each shape: of rows, of the slots of
their caches, of a chunk of a prompt. `Programs` binds them to a model.

Dimension key:
  B rows    L length    D model width    V vocabulary    C candidates that are told
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.generation import decoding, sampling
from lm.generation.sampling import DrawSettings
from lm.models.families import family_of
from lm.models.kv_cache import unstack_for_decoding
from lm.models.parameters import Params

NUM_TOP = 20  # The likeliest tokens that are told, at most.
_BLOCK = 32  # Tokens of a prompt whose logits are held at once.


@struct.dataclass
class Rows:
    """Holds texts, each at its own place and drawn by its own rules."""

    caches: Any  # Of what was read: all but each row's last token.
    token_B: Any  # That token.
    position_B: Any  # Where it stands.
    turn_B: Any  # How many tokens were drawn.
    keys_B: Any
    settings: DrawSettings
    seen_BV: Any


@struct.dataclass
class Drawn:
    """Holds a token a row, its log-probability before all settings, and the likeliest tokens."""

    token_B: Any
    log_prob_B: Any
    top_BC: Any
    top_log_prob_BC: Any


class Programs:
    """Binds a model to what is computed of it, on the mesh that its parameters lie on, if any.

    Args:
      model: a decoder, or an encoder with a decoder.
      params: of the model.
      vocab_size, start_id: see `sampling.sample`.
    """

    def __init__(self, model: nn.Module, params: Params, *, vocab_size: int, start_id: int):
        params = unstack_for_decoding(params, model.config.dtype)
        sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
        # One device is a mesh, too: arrays would else lie there or elsewhere by what made them.
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
        self.has_encoder = family_of(model).architecture == "encoder_decoder"
        self.vocab_size, self.start_id = vocab_size, start_id
        self.num_ids = model.config.vocab_size
        bind = functools.partial
        self.step = bind(_step, model, params, vocab_size=vocab_size, mesh=mesh)
        self.join = bind(_join, vocab_size=vocab_size, mesh=mesh)
        self.take = bind(_take, mesh=mesh)
        self.nothing_read = bind(_nothing_read, model, mesh=mesh)
        self.read = bind(_read, model, params, mesh=mesh)
        self.encode = bind(_encode, model, params, start_id=start_id, mesh=mesh)
        self.score = bind(_score, model, params, vocab_size=vocab_size, mesh=mesh)
        self._resize = bind(_resize, mesh=mesh)
        self._empty = bind(_empty, num_ids=self.num_ids, mesh=mesh)

    def resized(self, caches: Any, num_slots: int) -> Any:
        """Gives each row more slots, or fewer, of which none may be in use.

        There are twice as many each time, or half as many, so that few programs are compiled.
        """
        while (at := num_slots_of(caches)) != num_slots:
            caches = self._resize(caches, num_slots=2 * at if num_slots > at else at // 2)
        return caches

    def empty(self, num_rows: int, num_slots: int) -> Rows:
        """Makes rows in which nothing stands."""

        def row():
            if not self.has_encoder:
                return self.nothing_read(num_slots=num_slots)
            nothing = np.zeros((1, num_slots), np.int32), np.ones(1, np.int32)
            return self.encode(*nothing, num_slots=num_slots)[1]

        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), jax.eval_shape(row))
        leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
        return self._empty(num_rows=num_rows, leaves=tuple(leaves), tree=tree)


def num_slots_of(caches: Any) -> int:
    """Says how many slots each row has: all that is cached has them in its third dimension."""
    return jax.tree.leaves(caches)[0].shape[2]


@functools.partial(jax.jit, static_argnames=("model", "vocab_size", "mesh"), donate_argnames="rows")
def _step(model, params, rows: Rows, is_live_B, wants_top, *, vocab_size, mesh):
    """Reads each row's last token and draws the next -> the rows, and what was drawn.

    Args:
      model, params, vocab_size, mesh: see `Programs`.
      rows: given up; the result takes their place in memory.
      is_live_B: rows that somebody waits for; the others cost least.
      wants_top: whether the likeliest tokens are asked for.
    """
    logits_BV, caches = decoding.step(model, params, rows.token_B, rows.position_B, rows.caches)
    rows = rows.replace(caches=caches, position_B=rows.position_B + is_live_B)
    return _pin(_with_token(rows, logits_BV, is_live_B, wants_top, vocab_size), mesh)


@functools.partial(jax.jit, static_argnames=("vocab_size", "mesh"), donate_argnames="rows")
def _join(rows: Rows, row: Rows, index, at, logits_1V, wants_top, *, vocab_size, mesh):
    """Puts a text in the place of row `at`, and draws its first token -> as `_step`.

    Args:
      rows: see `_step`.
      row: one, whose caches have as many slots; its key is the raw one of a seed.
      index: what is folded into that; see `sampling.draw_index`.
      at: which row.
      logits_1V: of its first token.
      wants_top, vocab_size, mesh: see `_step`.
    """
    keys_B = jax.random.wrap_key_data(row.keys_B, impl=jax.random.key_impl(rows.keys_B))
    row = row.replace(keys_B=jax.vmap(jax.random.fold_in, (0, None))(keys_B, index))
    row, drawn = _with_token(row, logits_1V, jnp.ones(1, bool), wants_top, vocab_size)
    put = lambda x, one: jax.lax.dynamic_update_slice_in_dim(x, one, at, axis=0)
    return _pin((jax.tree.map(put, rows, row), drawn), mesh)


def _with_token(rows: Rows, logits_BV, is_live_B, wants_top, vocab_size) -> tuple[Rows, Drawn]:
    logits_BV = decoding.of_known_ids(logits_BV, vocab_size)
    temperature_B = jnp.where(is_live_B, rows.settings.temperature_B, 0.0)
    settings = rows.settings.replace(temperature_B=temperature_B)
    token_B = sampling.draw(logits_BV, rows.keys_B, rows.turn_B, rows.seen_BV, settings)
    rows = rows.replace(
        token_B=token_B,
        turn_B=rows.turn_B + 1,
        seen_BV=sampling.also_seen(rows.seen_BV, token_B),
    )
    return rows, _likely(logits_BV, token_B, wants_top)


def _likely(logits_BV: jax.Array, token_B: jax.Array, wants_top: jax.Array) -> Drawn:
    """Finds how likely tokens are, and, if that is wanted, which are likeliest."""
    B, V = logits_BV.shape
    num = min(NUM_TOP, V)
    total_B1 = jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
    picked_B1 = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)
    top_BC, index_BC = jax.lax.cond(
        wants_top,
        lambda: tuple(jax.lax.top_k(logits_BV, num)),
        lambda: (jnp.zeros((B, num), logits_BV.dtype), jnp.zeros((B, num), jnp.int32)),
    )
    return Drawn(token_B, (picked_B1 - total_B1)[:, 0], index_BC, top_BC - total_B1)


@functools.partial(jax.jit, static_argnames=("num_slots", "mesh"))
def _resize(caches: Any, *, num_slots: int, mesh) -> Any:
    def fit(x):
        x = jax.lax.slice_in_dim(x, 0, min(num_slots, x.shape[2]), axis=2)
        return jnp.pad(x, [(0, 0), (0, 0), (0, num_slots - x.shape[2]), *[(0, 0)] * (x.ndim - 3)])

    return _pin(jax.tree.map(fit, caches), mesh)


@functools.partial(jax.jit, static_argnames="mesh")
def _take(rows: Rows, from_B: jax.Array, *, mesh) -> Rows:
    """Makes rows of these, in this order."""
    return _pin(jax.tree.map(lambda x: x[from_B], rows), mesh)


@functools.partial(jax.jit, static_argnames=("num_rows", "leaves", "tree", "num_ids", "mesh"))
def _empty(*, num_rows, leaves, tree, num_ids, mesh) -> Rows:
    caches = [jnp.zeros((num_rows, *shape[1:]), dtype) for shape, dtype in leaves]
    zeros = jnp.zeros(num_rows, jnp.int32)
    how = dict(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
    rows = Rows(
        caches=jax.tree.unflatten(tree, caches),
        token_B=zeros,
        position_B=zeros,
        turn_B=zeros,
        keys_B=jax.random.split(jax.random.key(0), num_rows),
        settings=DrawSettings.of(num_rows, **how),
        seen_BV=jnp.zeros((num_rows, num_ids), bool),
    )
    return _pin(rows, mesh)


@functools.partial(jax.jit, static_argnames=("model", "num_slots", "mesh"))
def _nothing_read(model, *, num_slots: int, mesh) -> Any:
    """Makes the caches of a decoder's text before its first token."""
    return _pin(decoding.empty_caches(model, 1, num_slots), mesh)


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _read(model, params, tokens_1L, length_1, first, caches, *, mesh):
    """Reads a chunk of a decoder's prompt; see `decoding.read`."""
    return _pin(decoding.read(model, params, tokens_1L, length_1, first, caches), mesh)


@functools.partial(jax.jit, static_argnames=("model", "num_slots", "start_id", "mesh"))
def _encode(model, params, tokens_1L, length_1, *, num_slots, start_id, mesh):
    """Reads a prompt by an encoder -> logits of the first token, and caches."""
    logits_1V, _, caches = decoding.start(
        model, params, tokens_1L, length_1, num_new=num_slots, start_id=start_id
    )
    return _pin(logits_1V, mesh), _resize(caches, num_slots=num_slots, mesh=mesh)


@functools.partial(jax.jit, static_argnames=("model", "vocab_size", "mesh"))
def _score(model, params, hidden_1LD, next_L, *, vocab_size, mesh) -> Drawn:
    """Finds how likely the token behind each hidden state of `_read` is."""

    def of_block(block):
        hidden_BD, next_B = block
        logits_BV = decoding.logits_of(model, params, hidden_BD)
        return _likely(decoding.of_known_ids(logits_BV, vocab_size), next_B, jnp.bool(True))

    # Logits of a whole chunk would take more than its caches.
    L = next_L.shape[0]
    blocks = hidden_1LD.reshape(L // _BLOCK, _BLOCK, -1), next_L.reshape(L // _BLOCK, _BLOCK)
    found = jax.lax.map(of_block, blocks)
    return _pin(jax.tree.map(lambda x: x.reshape(L, *x.shape[2:]), found), mesh)


def _pin(tree: Any, mesh: Mesh | None) -> Any:
    """Says where arrays lie, so that every program finds them there and none is compiled twice."""
    if mesh is None:
        return tree

    def place(x):
        is_cut = x.ndim == 4 and x.shape[1] % mesh.shape["tensor"] == 0  # Heads of a cache.
        spec = P(None, "tensor") if is_cut else P()
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)
