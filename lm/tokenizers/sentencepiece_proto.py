"""The protocol buffers of SentencePiece, with those of their fields that are used here.

Described by hand, since the descriptions in its package cannot be imported beside a protobuf older
than what generated them, and Apache Beam asks for an older one. Numbers and defaults are those of
sentencepiece_model.proto and sentencepiece.proto. What is not described stays in a message that is
written again.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

UNIGRAM, BPE = 1, 2  # Types of models.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # Types of pieces.
_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bool": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "float": _FIELD.TYPE_FLOAT,
    "int32": _FIELD.TYPE_INT32,  # Enumerations, too, which are written alike.
    "string": _FIELD.TYPE_STRING,
    "uint32": _FIELD.TYPE_UINT32,
}
# The fields of each message: number, name, type, default. A type with a * is that of a list.
_MESSAGES = {
    "ModelPiece": [
        (1, "piece", "string", ""),
        (2, "score", "float", ""),
        (3, "type", "int32", "1"),
    ],
    "TrainerSpec": [
        (3, "model_type", "int32", "1"),
        (4, "vocab_size", "int32", "8000"),
        (24, "treat_whitespace_as_suffix", "bool", "false"),
        (35, "byte_fallback", "bool", "false"),
        (40, "unk_id", "int32", "0"),
        (41, "bos_id", "int32", "1"),
        (42, "eos_id", "int32", "2"),
        (43, "pad_id", "int32", "-1"),
        (45, "unk_piece", "string", "<unk>"),
        (46, "bos_piece", "string", "<s>"),
        (47, "eos_piece", "string", "</s>"),
    ],
    "NormalizerSpec": [
        (1, "name", "string", ""),
        (2, "precompiled_charsmap", "bytes", ""),
        (3, "add_dummy_prefix", "bool", "true"),
        (4, "remove_extra_whitespaces", "bool", "true"),
        (5, "escape_whitespaces", "bool", "true"),
    ],
    "ModelProto": [
        (1, "pieces", "*ModelPiece", ""),
        (2, "trainer_spec", "TrainerSpec", ""),
        (3, "normalizer_spec", "NormalizerSpec", ""),
    ],
    "TextPiece": [
        (1, "piece", "string", ""),
        (2, "id", "uint32", ""),
        (4, "begin", "uint32", ""),
        (5, "end", "uint32", ""),
    ],
    "SentencePieceText": [(2, "pieces", "*TextPiece", "")],
}


def _describe() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name=__name__, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field_name, kind, default in fields:
            is_list, kind = kind.startswith("*"), kind.removeprefix("*")
            field = message.field.add(number=number, name=field_name)
            field.label = _FIELD.LABEL_REPEATED if is_list else _FIELD.LABEL_OPTIONAL
            field.type = _TYPES.get(kind, _FIELD.TYPE_MESSAGE)
            if kind in _MESSAGES:
                field.type_name = kind
            if default:
                field.default_value = default
    pool = descriptor_pool.DescriptorPool()  # Of its own, beside what the package describes.
    pool.Add(file)
    return pool


_POOL = _describe()
ModelProto = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("ModelProto"))
SentencePieceText = message_factory.GetMessageClass(
    _POOL.FindMessageTypeByName("SentencePieceText")
)
