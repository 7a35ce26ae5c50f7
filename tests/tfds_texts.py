"""Data sets of texts that TFDS knows by name."""

import pathlib
from collections.abc import Sequence


def register(monkeypatch, name: str, folder: pathlib.Path, texts: Sequence[str | bytes]) -> None:
    """Makes a split "train" in `folder`; TFDS knows SomeGreetings as some_greetings."""
    import tensorflow_datasets as tfds

    def info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    members = {
        "VERSION": tfds.core.Version("1.0.0"),
        "pkg_dir_path": folder,  # Otherwise TFDS looks for the class in a module of that name.
        "_info": info,
        "_split_generators": lambda self, dl_manager: {"train": self._generate_examples()},
        "_generate_examples": lambda self: ((i, {"text": text}) for i, text in enumerate(texts)),
    }
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
    type(name, (tfds.core.GeneratorBasedBuilder,), members)
