"""Weights that changed on the disk are noticed where we wrote them."""

import json
import random

import ml_dtypes
import numpy as np
import pytest
import safetensors
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

    with pytest.raises(UserError, match="is damaged, or was changed after") as caught:
        read(tmp_path)

    assert WEIGHTS in str(caught.value) and "\n" not in str(caught.value)


def test_what_others_saved_anew_is_taken(tensors, tmp_path):
    write_tensors(tmp_path / WEIGHTS, tensors)
    changed = {name: tensor + tensor for name, tensor in tensors.items()}
    safetensors.numpy.save_file(changed, tmp_path / WEIGHTS, metadata={"format": "pt"})
    np.testing.assert_array_equal(read(tmp_path)["a.weight"], changed["a.weight"])


def with_checksums(text):
    return {"format": "pt", "lm.crc32": text}


@pytest.mark.parametrize(
    "text", ["[1]", "null", "", "{", "[" * 200_000, "{}", "all but one", "one more", "null for one"]
)
def test_checksums_that_do_not_fit_the_tensors_are_a_line_that_says_what_helps(
    text, tensors, tmp_path
):
    write_tensors(tmp_path / WEIGHTS, tensors)
    with safetensors.safe_open(tmp_path / WEIGHTS, framework="numpy") as file:
        whole = json.loads(file.metadata()["lm.crc32"])
    changed = {
        "all but one": dict(list(whole.items())[1:]),
        "one more": whole | {"z": "00000000"},
        "null for one": whole | {"a.weight": None},
    }
    text = json.dumps(changed[text]) if text in changed else text
    safetensors.numpy.save_file(tensors, tmp_path / WEIGHTS, metadata=with_checksums(text))

    with pytest.raises(
        UserError, match=r"get it again, or.* save it without the metadata"
    ) as error:
        read(tmp_path)

    assert len(str(error.value)) < 500


@pytest.mark.parametrize("text", ["deadbeef", "", "null", "[" * 9])
def test_checksums_of_other_makers_are_passed_over(text, tensors, tmp_path):
    metadata = {"format": "pt", "crc32": text}
    safetensors.numpy.save_file(tensors, tmp_path / WEIGHTS, metadata=metadata)
    assert read(tmp_path).keys() == tensors.keys()


def test_checksums_in_capitals_are_the_same(tensors, tmp_path):
    write_tensors(tmp_path / WEIGHTS, tensors)
    with safetensors.safe_open(tmp_path / WEIGHTS, framework="numpy") as file:
        found = json.loads(file.metadata()["lm.crc32"])
    capitals = json.dumps({name: value.upper() for name, value in found.items()})
    assert capitals != json.dumps(found)
    safetensors.numpy.save_file(tensors, tmp_path / WEIGHTS, metadata=with_checksums(capitals))
    assert read(tmp_path).keys() == tensors.keys()


@pytest.mark.parametrize("bit", range(8))
def test_no_changed_bit_of_the_header_changes_or_unchecks_a_tensor(bit, tensors, tmp_path):
    """But for the key of the checksums, without which the file is one of another maker."""
    write_tensors(tmp_path / WEIGHTS, tensors)
    data = (tmp_path / WEIGHTS).read_bytes()
    key = data.index(b"lm.crc32")
    for place in {*range(8 + int.from_bytes(data[:8], "little"))} - {*range(key, key + 8)}:
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        (tmp_path / WEIGHTS).write_bytes(changed)
        try:
            found = read(tmp_path)
        except UserError:
            continue
        assert found.keys() == tensors.keys()
        assert all(np.array_equal(found[name], tensors[name]) for name in tensors), place
        assert None not in {h.checksum for h in TensorFiles(tmp_path).headers.values()}, place
