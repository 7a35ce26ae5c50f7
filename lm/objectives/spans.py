"""Objectives of models with an encoder and a decoder: part of a row is read, the rest written.

Packed documents stay apart, and a full row fills its arrays exactly.

Dimension key: B batch, L row length, M encoder length, T decoder length, S spans.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm.corpus.rows import Rows
from lm.errors import UserError
from lm.objectives.batch import Batch, row_keys
from lm.tokenizers.vocabulary import Vocabulary


def counts(seq_len: int, noise_density: float, mean_span_length: float) -> tuple[int, int]:
    """Counts the corrupted tokens and the spans of a full row, rounded as T5 does."""
    num_noise = min(max(round(seq_len * noise_density), 1), seq_len - 1)
    num_spans = max(round(num_noise / mean_span_length), 1)
    return num_noise, min(num_spans, num_noise, seq_len - num_noise)


def span_corruption(
    rows: Rows,
    key: jax.Array,
    *,
    vocabulary: Vocabulary,
    noise_density: float,
    mean_span_length: float,
    lengths: tuple[int, int] | None = None,
) -> Batch:
    """Replaces spans by sentinels, behind which the decoder writes them (Raffel et al. 2020).

    As in its section 3.1.4, but the sentinels of each document start from `<extra_id_0>`; the row
    ends with one end-of-text token. A row of 7 tokens in which `b c` and `e` were chosen:

        tokens          <s>  a    b    c    d    e    </s>
        encoder         <s>  a    <0>  d    <1>  </s>
        decoder reads   pad  <0>  b    c    <1>  e
        targets         <0>  b    c    <1>  e    </s>

    Special tokens are never chosen, and no span crosses from one document to another. So a row
    whose documents are too short for such long spans has less noise, and its last tokens do not fit
    into the encoder.

    Args:
      rows: packed rows of L tokens.
      key: of the step.
      vocabulary: has sentinels and an end-of-text token.
      noise_density: the share of tokens that is chosen.
      mean_span_length: in tokens.
      lengths: M and T; by default what a full row fills: L - noise + spans, noise + spans + 1.

    Raises:
      UserError: more spans than sentinels.
    """
    L = rows.tokens_BL.shape[1]
    num_noise, num_spans = counts(L, noise_density, mean_span_length)
    if num_spans > len(vocabulary.sentinel_ids):
        raise UserError(
            f"objective: {num_spans} spans in a row of data.seq_len={L} need as many sentinels, "
            f"and the tokenizer has {len(vocabulary.sentinel_ids)}; make more, or longer spans"
        )
    choose = functools.partial(_choose_spans, num_noise=num_noise, num_spans=num_spans)
    # Sentinels stand in both; the decoder also writes the end. A full row leaves nothing empty.
    lengths = lengths or (L - num_noise + num_spans, num_noise + num_spans + 1)
    return _encoder_decoder_batch(rows, key, choose, vocabulary, lengths, sentinels=True)


def prefix(
    rows: Rows,
    key: jax.Array,
    *,
    vocabulary: Vocabulary,
    suffix_share: float,
    lengths: tuple[int, int] | None = None,
) -> Batch:
    """The encoder reads the beginning of each document, and the decoder writes the rest.

        tokens          <s>  a    b    c    d    </s>
        encoder         <s>  a    b    </s>
        decoder reads   pad  c
        targets         c    d

    A full row has `suffix_share` of its tokens in the suffixes of its documents, each about its
    part. Special tokens are never moved; the decoder's end-of-text token ends the last document.
    """
    L = rows.tokens_BL.shape[1]
    num_noise = counts(L, suffix_share, L)[0]
    choose = functools.partial(_choose_suffixes, num_noise=num_noise)
    lengths = lengths or (L - num_noise, num_noise + 1)
    return _encoder_decoder_batch(rows, key, choose, vocabulary, lengths, sentinels=False)


def _encoder_decoder_batch(
    rows: Rows,
    key: jax.Array,
    choose: Callable,
    vocabulary: Vocabulary,
    lengths: tuple[int, int],
    *,
    sentinels: bool,
) -> Batch:
    """Moves the chosen tokens of each row to the decoder."""
    special_V = jnp.asarray(vocabulary.special_V)
    sentinel_ids = jnp.asarray(vocabulary.sentinel_ids)
    pad_id, eos_id = vocabulary.pad_id, vocabulary.eos_id
    L = rows.tokens_BL.shape[1]

    def one_row(key, tokens_L, segments_L):
        filled_L = segments_L > 0
        noise_L = choose(key, filled_L & ~special_V[tokens_L], segments_L)
        starts_L = noise_L & ~_after(noise_L, segments_L)
        # Sentinels count from the beginning of each document.
        number_L = jnp.cumsum(starts_L) - 1
        # By segment, of which there are L + 1 at most; `number + 1 - start` counts spans before.
        before_L = jax.ops.segment_min(number_L + 1 - starts_L, segments_L, L + 1)[segments_L]
        marks_L = sentinel_ids[number_L - before_L] if sentinels else tokens_L

        keep_L = filled_L & (~noise_L | (starts_L & sentinels))
        read_L = jnp.where(starts_L & sentinels, marks_L, tokens_L)
        encoder = _compact(keep_L, lengths[0], (read_L, pad_id), (segments_L, 0))

        # Each place of the row may write a sentinel and then its token: 2 L places and the end.
        pairs = lambda first, second: jnp.stack([first, second], axis=1).reshape(2 * L)
        keep = jnp.append(pairs(starts_L & sentinels, noise_L), jnp.any(filled_L))
        written = jnp.append(pairs(marks_L, tokens_L), eos_id)
        segments = jnp.append(pairs(segments_L, segments_L), jnp.max(segments_L))
        targets_T, segments_T = _compact(keep, lengths[1], (written, pad_id), (segments, 0))
        # The decoder reads what it wrote, one place later; a document begins with the pad token.
        previous_T = jnp.roll(targets_T, 1)
        read_T = jnp.where(_after(jnp.ones_like(segments_T, bool), segments_T), previous_T, pad_id)
        return *encoder, read_T, segments_T, targets_T

    keys_B = row_keys(key, rows.ids_B)
    tokens_BM, segments_BM, read_BT, segments_BT, targets_BT = jax.vmap(one_row)(
        keys_B, rows.tokens_BL, rows.segment_ids_BL
    )
    inputs = {
        "encoder_tokens_BM": tokens_BM,
        "encoder_segment_ids_BM": segments_BM,
        "tokens_BL": read_BT,
        "segment_ids_BL": segments_BT,
    }
    return Batch(inputs, targets_BT, (segments_BT > 0).astype(jnp.float32))


def _after(x_L: jax.Array, segments_L: jax.Array) -> jax.Array:
    """Whether `x_L` is True one place to the left, in the same document."""
    same_L = jnp.roll(segments_L, 1) == segments_L
    return jnp.where(jnp.arange(len(x_L)) > 0, jnp.roll(x_L, 1) & same_L, False)


def _before(x_L: jax.Array, segments_L: jax.Array) -> jax.Array:
    """Whether `x_L` is True one place to the right, in the same document."""
    return _after(x_L[::-1], segments_L[::-1])[::-1]


def _compact(keep: jax.Array, length: int, *arrays_and_fills) -> list[jax.Array]:
    """Moves what is kept of each array to its front, in `length` places; the rest is the fill."""
    # A stable sort, since shapes are static: boolean indexing would give as many as there are.
    order = jnp.argsort(~keep, stable=True)
    order = jnp.pad(order, (0, max(0, length - len(order))))[:length]
    is_there = jnp.arange(length) < jnp.sum(keep)
    return [jnp.where(is_there, array[order], fill) for array, fill in arrays_and_fills]


def _choose_suffixes(key, maskable_L, segments_L, *, num_noise):
    """Chooses the last tokens of each document: of the row's maskable ones a fixed share."""
    del key
    L = maskable_L.shape[0]
    share = _share_of_full_row(num_noise, segments_L) / jnp.maximum(jnp.sum(maskable_L), 1)
    # Rounded down at the end of each document of the running total, which the row then adds up to.
    # 1e-4, since a product that should be whole may come out just below, and lose a token.
    total_L = jnp.floor(jnp.cumsum(maskable_L) * share + 1e-4)
    ends_L = jax.ops.segment_max(total_L, segments_L, L + 1)
    begins_L = jnp.concatenate([jnp.zeros(2), jnp.maximum.accumulate(ends_L[1:-1])])
    count_L = (ends_L - begins_L)[segments_L]
    left_L = jnp.cumsum(maskable_L[::-1])[::-1]  # From here to the end of the row, ...
    behind_L = jax.ops.segment_min(left_L - maskable_L, segments_L, L + 1)[segments_L]
    return maskable_L & (left_L - behind_L <= count_L)  # ... and of the document.


def _share_of_full_row(count: int, segments_L: jax.Array) -> jax.Array:
    """`count` in a full row; in a shorter one in proportion."""
    L = segments_L.shape[0]
    return jnp.round(count * jnp.sum(segments_L > 0) / L).astype(int)


def _choose_spans(key, maskable_L, segments_L, *, num_noise, num_spans):
    """Chooses random spans with random gaps between them, kept inside documents."""
    # As T5 draws them, except at the ends: there a row never begins with a span and always ends
    # with one, so that its first token is never predicted and its last one always.
    gap_key, noise_key, grow_key = jax.random.split(key, 3)
    L, num_maskable = maskable_L.shape[0], jnp.sum(maskable_L)
    num_noise = jnp.minimum(_share_of_full_row(num_noise, segments_L), num_maskable - 1)
    spans = jnp.minimum(_share_of_full_row(num_spans, segments_L), num_maskable - num_noise)
    spans = jnp.where(num_noise > 0, jnp.clip(spans, 1, jnp.maximum(num_noise, 1)), 0)
    # Drawn along the maskable tokens, as if nothing stood between them: gap, span, gap, ..., gap,
    # of which the outer two may be empty.
    noise = _random_parts(noise_key, L + 2, num_noise, spans, num_spans + 1)
    gaps = _random_parts(gap_key, L + 2, num_maskable - num_noise + 2, spans + 1, num_spans + 1)
    gaps = gaps.at[0].add(-1).at[spans].add(-1)  # Drawn with 1 too many, as parts are never empty.
    ends = jnp.cumsum(jnp.stack([gaps, noise], axis=1).reshape(-1))
    index_L = jnp.cumsum(maskable_L) - 1
    block_L = jnp.searchsorted(ends, index_L, side="right")  # Even in gaps, odd in spans.
    noise_L = maskable_L & (block_L % 2 == 1) & (spans > 0)
    # A span that would run over a special token or into another document ends before it, ...
    broken_L = noise_L & ~_after(noise_L, segments_L)
    first_L = noise_L & (index_L == jnp.where(block_L > 0, ends[block_L - 1], 0))
    pieces_L = jnp.cumsum(broken_L)
    first_piece = jax.ops.segment_max(jnp.where(first_L, pieces_L, 0), block_L, len(ends) + 1)
    noise_L = noise_L & (pieces_L == first_piece[block_L])

    # ... and others grow by as much, never so that two of them meet.
    def grow(carry):
        turn, noise_L, _ = carry
        sides = _after(noise_L, segments_L), _before(noise_L, segments_L)
        free_L = maskable_L & ~noise_L
        apart_L, next_to_L = free_L & (sides[0] ^ sides[1]), free_L & (sides[0] | sides[1])
        open_L = jnp.where(jnp.any(apart_L), apart_L, next_to_L)
        score_L = jax.random.uniform(jax.random.fold_in(grow_key, turn), (L,)) * open_L
        noise_L = noise_L | ((jnp.arange(L) == jnp.argmax(score_L)) & open_L)
        return turn + 1, noise_L, jnp.any(open_L)

    missing = lambda carry: (jnp.sum(carry[1]) < num_noise) & carry[2]
    return jax.lax.while_loop(missing, grow, (0, noise_L, True))[1]


def _random_parts(key, L, total, parts, max_parts):
    """Divides `total` into random sizes of `parts` parts, each at least 1; zeros follow."""
    # All choices of parts - 1 places to cut at are equally likely.
    places_L = jnp.arange(L)
    can_cut_L = (places_L >= 1) & (places_L < total)
    score_L = jnp.where(can_cut_L, jax.random.uniform(key, (L,)), 2.0)
    cut_L = can_cut_L & (jnp.argsort(jnp.argsort(score_L)) < parts - 1)
    return jax.ops.segment_sum((places_L < total).astype(int), jnp.cumsum(cut_L), max_parts)
