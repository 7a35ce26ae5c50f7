"""Follows the metrics of a run while it writes them."""

import pathlib
from typing import Any

from lm.run.status import METRICS, record_of


class Tail:
    """Reads of metrics.jsonl what was not read yet."""

    def __init__(self, workdir: pathlib.Path):
        self._path = workdir / METRICS
        self._file, self._offset = None, 0

    def read(self) -> list[dict[str, Any]]:
        """The records since the last call, in order; an unfinished line waits for the next call.

        A run that goes on from a checkpoint writes the file anew: then it is read from its start.
        """
        try:
            with self._path.open("rb") as file:
                stat = self._path.stat()
                if stat.st_ino != self._file or stat.st_size < self._offset:
                    self._file, self._offset = stat.st_ino, 0
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [record for line in whole.splitlines() if (record := record_of(line)) is not None]
