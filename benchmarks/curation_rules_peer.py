"""The peer of benchmarks/curation_rules.py: datatrove's blocks, alone in their environment."""

import json
import time

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter


def blocks(language):
    """What FineWeb runs of English; of Chinese what FineWeb2 does, with its thresholds."""
    if language == "en":
        filters = [
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(),
        ]
    else:
        filters = [
            GopherRepetitionFilter(
                language="cmn",
                dup_line_frac=0.287,
                top_n_grams=((2, 0.256), (3, 0.201), (4, 0.171)),
                dup_n_grams=(
                    *((5, 0.198), (6, 0.182), (7, 0.167)),
                    *((8, 0.154), (9, 0.14), (10, 0.127)),
                ),
            ),
            GopherQualityFilter(
                language="cmn",
                min_avg_word_length=1,
                max_avg_word_length=5,
                max_non_alpha_words_ratio=0.735,
                stop_words=["的", "年", "在", "月", "是", "和", "日", "了"],
            ),
            FineWebQualityFilter(
                language="cmn",
                line_punct_thr=0.106,
                short_line_thr=999,
                char_duplicates_ratio=0.1,
                new_line_ratio=0.178,
            ),
        ]
    return FTFYFormatter(), filters, PIIFormatter()


def judge(text, repair, filters, mask):
    """Repairs, filters and masks one text."""
    document = Document(text=repair.format(text), id="")
    if all(one.filter(document) is True for one in filters):
        mask.format(document.text)


def main(path, language, warm_up):
    """Prints the seconds of processor time that formatters and filters take for texts."""
    with open(path, encoding="utf-8") as file:
        texts = [json.loads(line) for line in file]
    parts = blocks(language)
    for text in texts[: int(warm_up)]:
        judge(text, *parts)
    start = time.process_time()
    for text in texts:
        judge(text, *parts)
    print(time.process_time() - start)
