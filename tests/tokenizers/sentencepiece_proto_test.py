"""Our description of SentencePiece's files is, as far as it goes, that of its package."""

import ast
import importlib.util
import pathlib

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from lm.tokenizers import sentencepiece_proto


def described(module):
    """The package's own description, read as data: beside some protobufs it cannot be imported."""
    source = pathlib.Path(importlib.util.find_spec(f"sentencepiece.{module}").origin).read_text()
    (data,) = (
        ast.literal_eval(node.args[0])
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "AddSerializedFile"
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
    return pool


def differences(ours, theirs):
    """Yields the fields of a message, and of those in it, that are not alike."""
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        if field.message_type is not None:
            yield from differences(field.message_type, other.message_type)
        if told(field) != told(other):
            yield f"{ours.name}.{field.name}: {told(field)}, {told(other)}"


def told(field):
    kind = field.TYPE_INT32 if field.type == field.TYPE_ENUM else field.type  # Written alike.
    return field.number, kind, field.is_repeated, field.default_value


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("sentencepiece_model_pb2", "ModelProto"),
        ("sentencepiece_pb2", "SentencePieceText"),
    ],
)
def test_each_field_is_that_of_the_package(module, name):
    theirs = described(module).FindMessageTypeByName(f"sentencepiece.{name}")

    assert list(differences(getattr(sentencepiece_proto, name).DESCRIPTOR, theirs)) == []
    assert theirs.fields_by_name["pieces"].message_type.fields_by_name  # It was read.


def test_types_have_the_numbers_of_the_package():
    pool = described("sentencepiece_model_pb2")
    pieces = pool.FindEnumTypeByName("sentencepiece.ModelProto.SentencePiece.Type")
    models = pool.FindEnumTypeByName("sentencepiece.TrainerSpec.ModelType")

    for name, value in [*pieces.values_by_name.items(), *models.values_by_name.items()]:
        assert getattr(sentencepiece_proto, name, value.number) == value.number
