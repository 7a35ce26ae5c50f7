#!/bin/bash
# TFDS writes a large split only where TensorFlow is installed.
#
# Guess: what writes and reads ArrayRecord without TensorFlow does so for any number of examples,
# and with disable_shuffling=True writes them as they come.
# Instead: all examples wait until the last one, for the number of files depends on all of them.
# Up to 1 GB waits in memory (MAX_MEM_BUFFER_SIZE, lowered here); beyond that tf.io.gfile opens
# buckets on disk, and without TensorFlow that is a ModuleNotFoundError.
# Versions: tensorflow-datasets 4.9.10, array-record 0.8.6. Seen in November 2026:
#   below the limit: 100 examples
#   above the limit: ModuleNotFoundError: No module named 'tensorflow'
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env
env/bin/pip install -q tensorflow-datasets==4.9.10 array-record==0.8.6 "importlib_resources>=6.5"
cat > rows.py <<'PY'
import numpy as np
import tensorflow_datasets as tfds


class Rows(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"row": tfds.features.Scalar(np.object_)})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": ((i, {"row": bytes(10_000)}) for i in range(100))}

    def _generate_examples(self):
        raise NotImplementedError
PY
cat > show.py <<'PY'
import tensorflow_datasets as tfds
from rows import Rows
from tensorflow_datasets.core import shuffle

tfds.disable_progress_bar()


def write(limit, folder):
    shuffle.MAX_MEM_BUFFER_SIZE = limit
    builder = Rows(data_dir=folder, file_format="array_record")
    try:
        builder.download_and_prepare()
    except ModuleNotFoundError as error:
        return f"{type(error).__name__}: {error}"
    return f"{builder.info.splits['train'].num_examples} examples"


below, above = write(10_000_000, "below"), write(500_000, "above")
print("below the limit:", below)
print("above the limit:", above)
assert below == "100 examples"
assert above == "ModuleNotFoundError: No module named 'tensorflow'", "it needs none now"
print("still so")
PY
env/bin/python show.py
