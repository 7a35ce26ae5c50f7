"""The peer of check_curation_agreement.py: each rule of datatrove alone, by our names."""

import importlib.metadata
import json

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import PUNCTUATION_SET, split_into_words

_GOPHER = dict.fromkeys(
    [
        *("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length"),
        *("max_symbol_word_ratio", "max_bullet_lines_ratio", "max_ellipsis_lines_ratio"),
        *("max_non_alpha_words_ratio", "min_stop_words"),
    ]
)
_REPETITION = dict.fromkeys(
    ["dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac"]
) | {"top_n_grams": (), "dup_n_grams": ()}
_C4 = dict.fromkeys(
    [
        *("remove_citations", "filter_no_terminal_punct", "filter_lorem_ipsum"),
        *("filter_javascript", "filter_curly_bracket", "filter_policy"),
    ],
    False,
) | dict.fromkeys(["min_num_sentences", "min_words_per_line", "max_word_length"], -1)
_FINEWEB = {
    "line_punct_thr": 0,
    "short_line_thr": 1e9,
    "char_duplicates_ratio": 1e9,
    "new_line_ratio": 1e9,
}


def filters(bounds):
    """Our bounds of English by name -> filters that drop by that rule alone."""
    low = {name: least for name, (least, _) in bounds.items()}
    high = {name: most for name, (_, most) in bounds.items()}
    gopher = lambda **one: GopherQualityFilter(**(_GOPHER | one))
    repetition = lambda **one: GopherRepetitionFilter(**(_REPETITION | one))
    c4 = lambda **one: C4QualityFilter(**(_C4 | one))
    fineweb = lambda **one: FineWebQualityFilter(**(_FINEWEB | one))
    symbols = gopher(max_symbol_word_ratio=high["hashes_per_unit"])
    return {
        "num_units": gopher(min_doc_words=low["num_units"], max_doc_words=high["num_units"]),
        "mean_unit_length": gopher(
            min_avg_word_length=low["mean_unit_length"],
            max_avg_word_length=high["mean_unit_length"],
        ),
        "alphabetic_units": gopher(max_non_alpha_words_ratio=low["alphabetic_units"]),
        "stop_words": gopher(min_stop_words=low["stop_words"]),
        "hashes_per_unit": symbols,
        "ellipses_per_unit": symbols,
        "bullet_lines": gopher(max_bullet_lines_ratio=high["bullet_lines"]),
        "ellipsis_lines": gopher(max_ellipsis_lines_ratio=high["ellipsis_lines"]),
        "end_mark_lines": fineweb(line_punct_thr=low["end_mark_lines"]),
        "short_lines": fineweb(short_line_thr=high["short_lines"]),
        "line_ends_per_unit": fineweb(new_line_ratio=high["line_ends_per_unit"]),
        "duplicate_lines": repetition(dup_line_frac=high["duplicate_lines"]),
        "duplicate_line_characters": fineweb(
            char_duplicates_ratio=high["duplicate_line_characters"]
        ),
        "duplicate_paragraphs": repetition(dup_para_frac=high["duplicate_paragraphs"]),
        "duplicate_paragraph_characters": repetition(
            dup_para_char_frac=high["duplicate_paragraph_characters"]
        ),
        **{
            f"top_{n}_grams": repetition(top_n_grams=((n, high[f"top_{n}_grams"]),))
            for n in (2, 3, 4)
        },
        **{
            f"duplicate_{n}_grams": repetition(dup_n_grams=((n, high[f"duplicate_{n}_grams"]),))
            for n in range(5, 11)
        },
        "num_sentences": c4(
            filter_no_terminal_punct=True,
            min_num_sentences=low["num_sentences"],
            min_words_per_line=5,  # Of the journal's version of the paper, as the 3 sentences are.
        ),
        "lorem_ipsum": c4(filter_lorem_ipsum=True),
        "curly_brackets": c4(filter_curly_bracket=True),
    }


_OF_SYMBOLS = {  # One filter has both rules, and names the first that drops.
    "hashes_per_unit": "gopher_too_many_hashes",
    "ellipses_per_unit": "gopher_too_many_ellipsis",
}


def dropped(by_name, text):
    """The names of the rules that drop a text."""
    found = []
    for name, one in by_name.items():
        outcome = one.filter(Document(text=text, id=""))
        if outcome is not True and outcome[1] == _OF_SYMBOLS.get(name, outcome[1]):
            found.append(name)
    return found


def tokens(text):
    """The words of each line; and whether each is more than marks."""
    lines = [split_into_words(line) if line.strip() else [] for line in text.split("\n")]
    return [
        [[word, any(character not in PUNCTUATION_SET for character in word)] for word in line]
        for line in lines
    ]


def main(path):
    """Prints the version, and for each text of a file a line of JSON."""
    with open(path, encoding="utf-8") as file:
        given = json.load(file)
    by_name = filters(given["bounds"])
    print(json.dumps(importlib.metadata.version("datatrove")))
    for text in given["texts"]:
        print(json.dumps({"dropped": dropped(by_name, text), "tokens": tokens(text)}))
