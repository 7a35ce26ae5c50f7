import io

import numpy as np
import pytest
import rich.console

from lm.corpus.packing import NO_NEXT, Piece
from lm.data.render import Stream, render, spelled
from lm.tokenizers import tokenizers
from tests.tiny import rows_of
from tests.tiny_tokenizers import LOSSLESS, tokenizer_of


def shown(renderable, width=80, **settings):
    console = rich.console.Console(file=io.StringIO(), width=width, **settings)
    console.print(renderable)
    return console.file.getvalue()


def example():
    tokenizer = tokenizers.ByteTokenizer()

    def piece(text, next_token):
        (ids,) = tokenizer.encode_batch([text])
        return Piece(np.concatenate([[tokenizer.bos_id], ids]), next_token)

    rows = [[piece("if x:\n\ty", 70), piece("ü [b]", NO_NEXT)], [piece("two", 5)], [piece("3", 5)]]
    return tokenizer, rows_of(rows, seq_len=20, pad_id=0)


def stream(rows, weights_BL=None):
    weights_BL = rows.next_BL >= 0 if weights_BL is None else weights_BL
    return [Stream("", rows.tokens_BL, rows.segment_ids_BL, weights_BL)]


def test_a_batch_reads_as_text_without_colour():
    tokenizer, rows = example()
    lines = [
        line.rstrip("─ ")
        for line in shown(render(stream(rows), tokenizer, max_rows=2)).splitlines()
    ]
    assert lines == [
        "row 0 of 3: 2 segments, 16 tokens, 15 in the loss, 4 of 20 empty",
        "[1] positions 0 to 8",
        "<s>if x:⏎",
        "⇥y",
        "[2] positions 0 to 6",
        "<s>ü [b⟨]⟩",
        "row 1 of 3: 1 segments, 4 tokens, 4 in the loss, 16 of 20 empty",
        "[1] positions 0 to 3",
        "<s>two",
        "and 1 rows more",
    ]


def test_given_weights_are_what_is_marked():
    tokenizer, rows = example()
    weights_BL = np.ones((3, 20), np.float32)
    weights_BL[1, :3] = 0, 1, 0.5
    text = shown(render(stream(rows, weights_BL), tokenizer))
    assert "⟨<s>⟩tw×0.5o" in text


def test_segments_differ_in_colour_and_the_text_does_not():
    tokenizer, rows = example()
    segments = render(stream(rows), tokenizer).renderables
    first, second = segments[2], segments[4]
    colours = [{span.style for span in text.spans} for text in (first, second)]
    assert colours[0].isdisjoint(colours[1])
    assert any("dim" in style for style in colours[1])
    coloured = shown(render(stream(rows), tokenizer), force_terminal=True, color_system="truecolor")
    assert "\x1b[" in coloured and "\x1b[" not in shown(render(stream(rows), tokenizer))


def test_what_must_be_said_in_place_of_a_token_follows_it():
    tokenizer, rows = example()
    targets_BL = np.full((3, 20), -1)
    targets_BL[1, 2] = tokenizer.encode_batch(["x"])[0][0]
    streams = [Stream("encoder", rows.tokens_BL, rows.segment_ids_BL, None, targets_BL)]

    lines = shown(render(streams, tokenizer)).splitlines()

    assert "<s>tw→xo" in lines
    assert lines[lines.index("<s>tw→xo") - 2].startswith(
        "row 1 of 3, encoder: 1 segments, 4 tokens, 1 in the loss, 16 of 20 empty"
    )


TEXT = " the  quick 狐狸 jümps\tover 🦊!"


@pytest.mark.parametrize("kind", [*LOSSLESS, "t5", "xlm-r"])
def test_spaces_and_characters_of_every_tokenizer_are_those_of_the_text(kind):
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode_batch([TEXT])[0]
    row = rows_of([[Piece(ids, NO_NEXT)]], seq_len=len(ids))
    lines = shown(render(stream(row, np.ones((1, len(ids)))), tokenizer), width=500).splitlines()
    text = TEXT.replace("\t", "⇥")
    if kind in LOSSLESS:
        # Some put a space before all text, none of which is lost.
        assert lines[-1].rstrip() in (text, " " + text)
    else:
        assert lines[-1].split()[:2] == ["the", "quick"]


def test_the_bytes_of_a_character_stand_alone_where_they_are_not_alike():
    tokenizer, rows = example()
    weights_BL = np.ones((3, 20), np.float32)
    weights_BL[0, 10] = 0  # The first byte of ü.
    assert r"<s>⟨\xc3⟩\xbc [b" in shown(render(stream(rows, weights_BL), tokenizer))
    ids = np.array([[3 + 0xE7, 3 + 0x8B, 3 + ord("a"), 3 + 0x90]])
    row = rows_of([[Piece(ids[0], NO_NEXT)]], seq_len=4)
    assert r"\xe7\x8ba\x90" in shown(render(stream(row, np.ones((1, 4))), tokenizer))


CHINESE = "\u3000\u3000狐狸和狗。\n狐"


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_text_that_is_cut_inside_of_a_character_has_all_others_whole(kind):
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode_batch([CHINESE])[0]
    seen = set()
    for start, end in [(i, j) for i in range(len(ids)) for j in range(i + 1, len(ids) + 1)]:
        row = rows_of([[Piece(ids[start:end], NO_NEXT)]], seq_len=end - start)
        weights_BL = np.ones((1, end - start))
        batch, text = (
            "".join(shown(render(stream(row, weights_BL), tokenizer), width=500).split("\n")[2:]),
            spelled(ids[start:end].tolist(), tokenizer),
        )
        data = b"".join(tokenizer.raw(token) for token in ids[start:end])
        whole = data.decode(errors="backslashreplace")
        assert batch.strip(" ") == whole.replace("\n", "⏎").strip(" ")
        assert text.strip(" ") == whole.strip(" ")
        seen.add("\\x" in whole)
    assert seen == {False, True}


def test_a_stray_byte_leaves_the_character_behind_it_whole():
    ids = np.array([3 + byte for byte in b"\xe7\xe7\x8b\x90\x8b"])
    row = rows_of([[Piece(ids, NO_NEXT)]], seq_len=5)
    tokenizer = tokenizers.ByteTokenizer()
    assert r"\xe7狐\x8b" in shown(render(stream(row, np.ones((1, 5))), tokenizer))
    assert spelled(ids.tolist(), tokenizer) == r"\xe7狐\x8b"


def test_what_a_text_itself_has_in_place_of_a_character_stays():
    tokenizer = tokenizers.ByteTokenizer()
    assert spelled(tokenizer.encode_batch(["a\ufffd狐"])[0].tolist(), tokenizer) == "a\ufffd狐"
