"""What an engine sorts is all there, in order, and is never all in memory."""

import random
import tracemalloc

from lm.curation import shards
from lm.curation.engines import local

NUM_LINES, LINE_BYTES = 6000, 1000


def noise(seed):
    """Lines that hardly pack, in no order."""
    generator = random.Random(seed)
    for _ in range(NUM_LINES):
        yield b'{"id":"%s"}\n' % generator.randbytes(LINE_BYTES // 2).hex().encode()


def test_sorting_holds_a_run_and_no_shard(tmp_path):
    with local.opened(num_workers=1, num_shards=2, sort_bytes=1_000_000) as engine:
        tracemalloc.start()
        try:
            engine.sort(noise, range(2), tmp_path / "sorted")
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    files = sorted(path for path in (tmp_path / "sorted").iterdir() if path.is_file())
    lines = [line for path in files for line in shards.read(path)]
    assert lines == sorted(line for seed in range(2) for line in noise(seed))
    assert all(path.stat().st_size > 2_000_000 for path in files)
    assert most < 3_000_000
