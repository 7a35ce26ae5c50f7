"""Several prepared corpora that one run trains on."""

import dataclasses
import filecmp
import hashlib
import itertools
import json
from collections.abc import Mapping

from lm.corpus import split_counts
from lm.corpus.mixture import Mixture
from lm.corpus.packed_rows import JoinedRows
from lm.corpus.preparation import Prepared
from lm.corpus.source_weights import Settings, make_mixture
from lm.corpus.split_counts import SplitInfo
from lm.errors import UserError
from lm.tokenizers import tokenizers


@dataclasses.dataclass(frozen=True)
class MixedCorpus:
    """Corpora by name, of one tokenizer and one length of rows; has what a `Prepared` has.

    Its rows are those of its corpora, one after the other in the order of their names.
    """

    corpora: Mapping[str, Prepared]
    settings: Settings

    @property
    def hash(self) -> str:
        """Names the prepared data of all corpora."""
        hashes = {name: self.corpora[name].hash for name in sorted(self.corpora)}
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:20]
