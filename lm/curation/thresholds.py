"""The least and the most of what `lm.curation.quality.measure` measures, by language.

English: the published values. Gopher is Rae et al. 2021, appendix A.1.1 and table A1; C4 is Raffel
et al. 2020, section 2.2 (of the journal's version); FineWeb is Penedo et al. 2024, section 3.6.

Chinese: FineWeb2's values for Mandarin (Penedo et al. 2025, its cmn_Hani.yml, Apache-2.0), where
they are shares of lines or characters. What it counts in words is divided by the 1.76
characters of a word of the People's Daily (January 1998, punctuation left out), as our units of
Chinese are characters: its 5-gram of words is about our 9-gram. What has no such counterpart,
shorter n-grams and the length of units, is calibrated on 1,899 articles of that paper, at 1 %.
C4's rules on sentences and brackets are off, as in FineWeb2, and so are short lines.

Three of FineWeb2's values are replaced by quantiles of the even half of that paper's articles,
1,369 that benchmarks/quality/texts.py cuts out. Its 50 words of a document would be 88 characters,
which notices and reports in brief do not reach: 3.5 % of that half; 30 are the quantile of 0.5 %.
Fewer characters hold fewer stop words: 1 in place of 2 is the quantile of 0.1 %. And as lists of
teasers have 30 to 88 characters, too, ellipses are bound at 0.03 in place of 0.057, above the
quantile of 99.9 %, which is 0.013. What all of these drop of the odd half, and of what is spoilt,
is in docs/curation.md.
"""

from collections.abc import Mapping

# Language, or "*" for all -> measure -> the least and the most that are kept.
Thresholds = Mapping[str, Mapping[str, tuple[float | None, float | None]]]

THRESHOLDS: dict[str, dict[str, tuple[float | None, float | None]]] = {
    "en": {
        "num_units": (50, 100_000),  # Gopher
        "mean_unit_length": (3, 10),  # Gopher
        "alphabetic_units": (0.8, None),  # Gopher
        "stop_words": (2, None),  # Gopher
        "hashes_per_unit": (None, 0.1),  # Gopher
        "ellipses_per_unit": (None, 0.1),  # Gopher
        "bullet_lines": (None, 0.9),  # Gopher
        "ellipsis_lines": (None, 0.3),  # Gopher
        "end_mark_lines": (0.12, None),  # FineWeb
        "short_lines": (None, 0.67),  # FineWeb
        "line_ends_per_unit": (None, 0.3),  # FineWeb
        "duplicate_lines": (None, 0.3),  # Gopher
        "duplicate_line_characters": (None, 0.01),  # FineWeb; Gopher's is 0.2
        "duplicate_paragraphs": (None, 0.3),  # Gopher
        "duplicate_paragraph_characters": (None, 0.2),  # Gopher
        "top_2_grams": (None, 0.2),  # Gopher, as all below
        "top_3_grams": (None, 0.18),
        "top_4_grams": (None, 0.16),
        "duplicate_5_grams": (None, 0.15),
        "duplicate_6_grams": (None, 0.14),
        "duplicate_7_grams": (None, 0.13),
        "duplicate_8_grams": (None, 0.12),
        "duplicate_9_grams": (None, 0.11),
        "duplicate_10_grams": (None, 0.10),
        "num_sentences": (3, None),  # C4
        "lorem_ipsum": (None, 0),  # C4
        "curly_brackets": (None, 0),  # C4
    },
    "zh": {
        "num_units": (30, 176_000),  # Calibrated; Gopher's 100,000 words
        "mean_unit_length": (None, 2),  # Calibrated; words of 1 to 5 in FineWeb2
        "alphabetic_units": (0.735, None),
        "stop_words": (1, None),  # Calibrated
        "hashes_per_unit": (None, 0.057),  # 0.1 a word
        "ellipses_per_unit": (None, 0.03),  # Calibrated; 0.057 is 0.1 a word
        "bullet_lines": (None, 0.9),
        "ellipsis_lines": (None, 0.3),
        "end_mark_lines": (0.106, None),
        "line_ends_per_unit": (None, 0.101),  # 0.178 a word
        "duplicate_lines": (None, 0.287),
        "duplicate_line_characters": (None, 0.1),
        "duplicate_paragraphs": (None, 0.3),
        "duplicate_paragraph_characters": (None, 0.2),
        "top_2_grams": (None, 0.32),  # Calibrated, as all to 8
        "top_3_grams": (None, 0.31),
        "top_4_grams": (None, 0.35),
        "duplicate_5_grams": (None, 0.31),
        "duplicate_6_grams": (None, 0.26),
        "duplicate_7_grams": (None, 0.23),
        "duplicate_8_grams": (None, 0.22),
        "duplicate_9_grams": (None, 0.198),  # Of 5 words
        "duplicate_10_grams": (None, 0.19),
        "lorem_ipsum": (None, 0),
    },
}
