import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.corpus.packing import Piece
from lm.errors import UserError
from lm.objectives import spans
from lm.tokenizers.vocabulary import Vocabulary
from tests.tiny import rows_of

PAD, BOS, EOS = 0, 1, 2
V, SENTINELS = 200, np.arange(109, 9, -1)  # <extra_id_0> is 109: they count down.


def vocabulary(num_sentinels=100):
    special_V = np.isin(np.arange(V), [PAD, BOS, EOS, *SENTINELS])
    none_V = np.zeros(V, bool)
    return Vocabulary(PAD, EOS, None, SENTINELS[:num_sentinels], special_V, none_V, none_V)


def documents(*lengths, first=110):
    """Documents <s> ... </s> of ordinary tokens that are all different."""
    pieces, start = [], first
    for n in lengths:
        pieces.append(Piece(np.array([BOS, *range(start, start + n - 2), EOS]), -1))
        start += n - 2
    return pieces


def corrupt(rows, seed=0, objective=spans.span_corruption, **settings):
    settings = dict(noise_density=0.15, mean_span_length=3.0) | settings
    objective = functools.partial(objective, vocabulary=vocabulary(), **settings)
    return jax.device_get(jax.jit(objective)(rows, jax.random.key(seed)))


def put_together(encoder, targets):
    """Puts what stands behind each sentinel in the targets in its place."""
    spans_of, current = {}, None
    for token in targets:
        if token in SENTINELS:
            current = spans_of.setdefault(token, [])
        elif current is not None:
            current.append(token)
    return [t for token in encoder for t in spans_of.get(token, [token])]


def segments_of(batch, b=0):
    """(encoder tokens, decoder inputs, targets) of each document of a row."""
    encoder, decoder = batch.inputs["encoder_segment_ids_BM"][b], batch.inputs["segment_ids_BL"][b]
    for s in range(1, encoder.max() + 1):
        yield (
            batch.inputs["encoder_tokens_BM"][b][encoder == s].tolist(),
            batch.inputs["tokens_BL"][b][decoder == s].tolist(),
            batch.targets_BL[b][decoder == s].tolist(),
        )


def test_a_row_as_a_table(monkeypatch):
    chosen = jnp.array([0, 0, 1, 1, 0, 1, 0], bool)
    monkeypatch.setattr(spans, "_choose_spans", lambda *args, **more: chosen)
    rows = rows_of([[Piece(np.array([BOS, 110, 111, 112, 113, 114, EOS]), -1)]], 7)

    batch = corrupt(rows, noise_density=3 / 7, mean_span_length=1.5)

    table = {
        "encoder_tokens_BM": [BOS, 110, 109, 113, 108, EOS],
        "tokens_BL": [PAD, 109, 111, 112, 108, 114],
        "targets": [109, 111, 112, 108, 114, EOS],
        "weights": [1, 1, 1, 1, 1, 1],
    }
    found = {**batch.inputs, "targets": batch.targets_BL, "weights": batch.weights_BL}
    for name, row in table.items():
        np.testing.assert_array_equal(found[name], [row], err_msg=name)


@pytest.mark.parametrize(
    ("lengths", "density", "mean_span"),
    [
        *[((64,), d, m) for d, m in ((0.15, 3.0), (0.5, 3.0), (0.15, 8.0), (0.5, 32.0))],
        *[(docs, d, m) for docs in ((30, 34), (20, 9, 35)) for d, m in ((0.15, 3.0), (0.3, 1.0))],
        ((30, 34), 0.5, 4.0),
    ],
)
def test_full_rows_fill_their_places_and_lose_nothing(lengths, density, mean_span):
    rows = rows_of([documents(*lengths)] * 20, 64)
    num_noise, num_spans = spans.counts(64, density, mean_span)

    batch = corrupt(rows, noise_density=density, mean_span_length=mean_span)

    assert batch.inputs["encoder_tokens_BM"].shape == (20, 64 - num_noise + num_spans)
    assert batch.targets_BL.shape == (20, num_noise + num_spans + 1)
    assert batch.weights_BL.all()
    assert (batch.inputs["encoder_segment_ids_BM"] > 0).all()
    for b in range(20):
        assert batch.targets_BL[b, -1] == EOS
        for piece, (encoder, read, targets) in zip(
            documents(*lengths), segments_of(batch, b), strict=True
        ):
            assert read == [PAD, *targets[:-1]][: len(targets)]
            if targets and targets[-1] == EOS:
                del targets[-1]
            assert put_together(encoder, targets) == piece.tokens.tolist()
            marks = [token for token in encoder if token in SENTINELS]
            assert marks == [token for token in targets if token in SENTINELS]
            assert marks == SENTINELS[: len(marks)].tolist()


def test_documents_too_short_for_the_spans_are_hidden_less_and_never_wrong():
    rows = rows_of([documents(20, 9, 35)] * 50, 64)
    batch = corrupt(rows, noise_density=0.5, mean_span_length=32.0)

    for b in range(50):
        parts = list(segments_of(batch, b))
        whole = [put_together(e, [t for t in targets if t != EOS]) for e, _, targets in parts]
        flat = [token for document in whole for token in document]
        assert flat == rows.tokens_BL[b][: len(flat)].tolist()
        assert len(flat) > batch.inputs["encoder_tokens_BM"].shape[1]
        assert batch.targets_BL[b][batch.weights_BL[b] > 0][-1] == EOS


def test_spans_have_the_mean_length_and_the_density_that_were_asked_for():
    rows = rows_of([documents(90)] * 200, 90)
    batch = corrupt(rows)

    marks = np.isin(batch.targets_BL, SENTINELS)
    corrupted = ~marks & (batch.targets_BL != EOS)
    assert corrupted.sum() / rows.tokens_BL.size == pytest.approx(0.15, abs=0.01)
    assert corrupted.sum() / marks.sum() == pytest.approx(3.0, abs=0.3)
    # Every ordinary token is chosen about as often.
    often = np.bincount(batch.targets_BL[corrupted], minlength=V)[110:198] / 200
    assert often.min() > 0.05 and often.max() < 0.3


@pytest.mark.parametrize("filled", [0, 1, 2, 3, 7, 40])
def test_rows_that_are_not_full_are_corrupted_in_proportion(filled):
    pieces = [Piece(np.arange(110, 110 + filled), -1)] if filled else []
    batch = corrupt(rows_of([pieces], 64))

    found = list(segments_of(batch))
    assert len(found) == bool(filled)
    for encoder, _, targets in found:
        assert put_together(encoder, targets[:-1]) == list(range(110, 110 + filled))
    num_noise = np.sum((batch.targets_BL >= 110) & (batch.weights_BL > 0))
    assert num_noise <= max(round(10 * filled / 64), 0) + 1


def test_what_is_chosen_depends_on_the_key_and_the_row_alone():
    rows = rows_of([documents(30, 34), documents(64), documents(50, 14)], 64)
    batch, again, other = corrupt(rows), corrupt(rows), corrupt(rows, seed=1)
    one = corrupt(jax.tree.map(lambda x: x[1:2], rows))

    np.testing.assert_array_equal(batch.targets_BL, again.targets_BL)
    np.testing.assert_array_equal(batch.targets_BL[1:2], one.targets_BL)
    assert (batch.targets_BL != other.targets_BL).any()


def test_too_few_sentinels_are_an_error():
    with pytest.raises(UserError, match=r"3 spans .* the tokenizer has 2"):
        spans.span_corruption(
            rows_of([documents(64)], 64),
            jax.random.key(0),
            vocabulary=vocabulary(2),
            noise_density=0.15,
            mean_span_length=3.0,
        )


@pytest.mark.parametrize("lengths", [(64,), (30, 34), (20, 9, 35)])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_prefix_is_read_and_the_rest_is_written(lengths, share):
    rows = rows_of([documents(*lengths)] * 2, 64)
    num_noise = spans.counts(64, share, 64)[0]

    objective = functools.partial(spans.prefix, vocabulary=vocabulary(), suffix_share=share)
    batch = jax.device_get(jax.jit(objective)(rows, jax.random.key(0)))

    assert batch.inputs["encoder_tokens_BM"].shape == (2, 64 - num_noise)
    assert batch.targets_BL.shape == (2, num_noise + 1)
    assert batch.weights_BL.all()
    parts = zip(documents(*lengths), segments_of(batch), strict=True)
    for i, (piece, (encoder, _, targets)) in enumerate(parts):
        text = piece.tokens[:-1].tolist()
        written = targets[:-1] if i == len(lengths) - 1 else targets
        assert encoder == [*text[: len(text) - len(written)], EOS]
        assert text[len(text) - len(written) :] == written
        assert abs(len(written) - share * len(piece.tokens)) <= 2
