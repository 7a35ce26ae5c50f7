"""Weights that changed on the disk are noticed where we wrote them."""

import random

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from lm.errors import UserError
from lm.interop.tensor_files import WEIGHTS, TensorFiles, write_tensors


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    return {
        "a.weight": draw(5, 7),
        "b.bias": draw(3).astype(ml_dtypes.bfloat16),
        "中.weight": draw(2, 3, 4).astype(np.float16),
    }


def read(folder):
    files = TensorFiles(folder)
    return {name: files.read(name) for name in files.headers}


def test_tensors_come_back(tensors, tmp_path):
    write_tensors(tmp_path / WEIGHTS, tensors)
    found = read(tmp_path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_the_same_tensors_are_the_same_file(tensors, tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for path in paths:
        write_tensors(path, tensors)
    assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize("seed", range(40))
def test_no_changed_bit_of_a_tensor_is_taken(seed, tensors, tmp_path):
    write_tensors(tmp_path / WEIGHTS, tensors)
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")  # What stands before the header, and it.
    rng = random.Random(seed)
    data[rng.randrange(start, len(data))] ^= 1 << rng.randrange(8)
    (tmp_path / WEIGHTS).write_bytes(data)

    with pytest.raises(UserError, match="has changed since") as caught:
        read(tmp_path)

    assert WEIGHTS in str(caught.value) and "\n" not in str(caught.value)


def test_what_others_saved_anew_is_taken(tensors, tmp_path):
    write_tensors(tmp_path / WEIGHTS, tensors)
    changed = {name: tensor + tensor for name, tensor in tensors.items()}
    safetensors.numpy.save_file(changed, tmp_path / WEIGHTS, metadata={"format": "pt"})
    np.testing.assert_array_equal(read(tmp_path)["a.weight"], changed["a.weight"])


def test_damaged_checksums_are_a_line(tensors, tmp_path):
    metadata = {"format": "pt", "crc32": "[1]"}
    safetensors.numpy.save_file(tensors, tmp_path / WEIGHTS, metadata=metadata)
    with pytest.raises(UserError, match="its checksums"):
        read(tmp_path)
