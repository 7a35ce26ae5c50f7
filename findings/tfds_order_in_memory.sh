#!/bin/bash
# A TFDS builder that does not shuffle holds a whole split in memory.
#
# Guess: with disable_shuffling=True examples are written as they come; otherwise at most 1 GB waits
# in memory (MAX_MEM_BUFFER_SIZE), and the rest in a thousand buckets on disk.
# Instead: nothing is written before the last example, for the number of files depends on all of
# them. Beyond the buffer, the bucket of an example is chosen by its key as a share of 2**128. Keys
# that keep the order are small numbers, so all examples are in the first bucket, which is read and
# sorted in memory at the end.
# Versions: tensorflow-datasets 4.9.10. Seen in November 2026:
#   peak grew by 133 MB where the buffer holds 10 MB and the examples are 100 MB
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install -q tensorflow-datasets==4.9.10 array-record==0.8.6 "importlib_resources>=6.5"
cat > builder.py <<'PY'
import numpy as np
import tensorflow_datasets as tfds


class Rows(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"row": tfds.features.Scalar(np.object_)})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": ((i, {"row": bytes(10_000)}) for i in range(10_000))}

    def _generate_examples(self):
        raise NotImplementedError
PY
cat > show.py <<'PY'
import resource

import tensorflow_datasets as tfds
from builder import Rows
from tensorflow_datasets.core import shuffle

tfds.disable_progress_bar()
shuffle.MAX_MEM_BUFFER_SIZE = 10_000_000
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
builder = Rows(data_dir="data", file_format="array_record")
before = peak()
builder.download_and_prepare()
grown = peak() - before
print(f"peak grew by {grown:.0f} MB where the buffer holds 10 MB and the examples are 100 MB")
assert grown > 90, "examples wait elsewhere now"
print("still so")
PY
env/bin/python show.py 2>&1 | grep -v WARN
