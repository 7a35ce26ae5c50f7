#!/bin/bash
# The same examples give other files in each process, once they have two features.
#
# Guess: a TFDS builder that does not shuffle writes the same bytes whenever it runs on the same examples.
# Instead: it does with one feature. Of two or more, the order in the serialized example differs from
#   process to process: what compares or caches by a checksum of files finds other data.
# Versions: tensorflow-datasets 4.9.10, array-record 0.8. Seen in December 2026, in six processes:
#   one feature: 1 checksum; two features: 2 checksums
set -eu
W=$(mktemp -d); trap 'rm -rf "$W"' EXIT; cd "$W"
python3 -m venv env; env/bin/pip install -q tensorflow-datasets==4.9.10 array-record
cat > show.py <<'PY'
import hashlib
import pathlib
import sys

import tensorflow_datasets as tfds

folder, sums, *names = pathlib.Path(sys.argv[1]).absolute(), *sys.argv[2:]


class SomePoems(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = folder

    def _info(self):
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in names})
        return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield from ((i, {name: f"{name} {i}" for name in names}) for i in range(4))


builder = SomePoems(data_dir=str(folder / "-".join(names)), file_format="array_record")
builder.download_and_prepare()
(path,) = builder.info.splits["train"].filepaths
with open(sums, "a") as file:
    print(hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest(), file=file)
PY
for i in 1 2 3 4 5 6; do
  mkdir "$i"
  env/bin/python show.py "$i" one text > log 2>&1 || { cat log; exit 1; }
  env/bin/python show.py "$i" two text title > log 2>&1 || { cat log; exit 1; }
done
one=$(sort -u one | wc -l) two=$(sort -u two | wc -l)
echo "one feature: $one checksum; two features: $two checksums"
[ "$one" = 1 ] && [ "$two" -gt 1 ] || { echo "it is otherwise now"; exit 1; }
echo "still so"
