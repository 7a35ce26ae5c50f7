"""Labelled data sets by name: the shapes that GLUE, CoNLL-2003, SQuAD and WMT have in TFDS."""

import sys
import types

import numpy as np
import pytest

from lm.data import records
from lm.tasks.answering import answers_of

ITEMS = [
    {
        "sentence": "很好 👍",
        "label": 1,
        "score": 2.5,
        "tokens": ["李", "明", "lacht"],
        "tags": [1, 2, 0],
        "answers": {"text": ["李明", "明"], "answer_start": [0, 1]},
        "pair": {"de": "Grüß", "zh": "你好"},
    },
    {
        "sentence": "schlecht",
        "label": -1,  # As GLUE's test splits, which keep their labels secret, have it.
        "score": 0.0,
        "tokens": [],
        "tags": [],
        "answers": {"text": [], "answer_start": []},
        "pair": {"de": "x", "zh": "y"},
    },
]
FIRST = ITEMS[0] | {"label": "positive", "tags": ["B-PER", "I-PER", "O"]}
SECOND = ITEMS[1]


@pytest.fixture(scope="module")
def some_labels(tmp_path_factory):
    import tensorflow_datasets as tfds

    f, folder = tfds.features, tmp_path_factory.mktemp("tfds")

    class SomeLabels(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = folder

        def _info(self):
            features = {
                "sentence": f.Text(),
                "label": f.ClassLabel(names=["negative", "positive"]),
                "score": f.Tensor(shape=(), dtype=np.float32),
                "tokens": f.Sequence(f.Text()),
                "tags": f.Sequence(f.ClassLabel(names=["O", "B-PER", "I-PER"])),
                "answers": f.Sequence({"text": f.Text(), "answer_start": np.int32}),
                "pair": f.Translation(languages=["de", "zh"]),
            }
            return self.dataset_info_from_configs(
                features=f.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield from enumerate(ITEMS)

    return tfds.core.constants, str(folder)


@pytest.fixture
def tfds_name(some_labels, monkeypatch):
    constants, folder = some_labels
    monkeypatch.setattr(constants, "DATA_DIR", folder)
    return "tfds:some_labels"


@pytest.fixture
def hugging_face_name(tmp_path, monkeypatch):
    """`datasets` gives plain values, and class labels as numbers beside their names."""
    label = lambda names: types.SimpleNamespace(int2str=names.__getitem__)
    tags = types.SimpleNamespace(feature=label(["O", "B-PER", "I-PER"]))
    (tmp_path / "data.arrow").write_bytes(b"1")

    class Items(list):
        pass

    items = Items(ITEMS)
    items.features = {"label": label(["negative", "positive"]), "tags": tags}
    items.cache_files = [{"filename": str(tmp_path / "data.arrow")}]
    fake = types.SimpleNamespace(load_dataset=lambda name, config, split: items)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return "hf:o/n"


@pytest.mark.parametrize("library", ["tfds_name", "hugging_face_name"])
def test_records_hold_text_and_the_names_of_labels(library, request):
    source = records.read_records(request.getfixturevalue(library), split="train", spec="train")

    first, second = source.records()

    assert first.fields == FIRST
    assert second.fields == SECOND
    assert first.name.endswith("[train]:0")
    assert source.fingerprint() == source.fingerprint()
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("library", ["tfds_name", "hugging_face_name"])
def test_answers_as_these_libraries_have_them_are_those_of_squad(library, request):
    source = records.read_records(request.getfixturevalue(library), split="train", spec="train")
    record = next(iter(source.records()))
    record.fields["context"] = "李明 lacht"

    assert answers_of(record) == [
        {"text": "李明", "answer_start": 0},
        {"text": "明", "answer_start": 1},
    ]
