"""TensorBoard's event files: TFRecords of `Event` protocol buffers, as far as runs need them.

Written by hand, since libraries that write them import all of TensorFlow, or torch where it is
installed: seconds of each start. Fields' numbers are those of event.proto, summary.proto and
tensor.proto.
"""

import pathlib
import struct
import time

_DT_STRING = 7
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed (RFC 3720, section 12.1).


class EventFile:
    """Writes a new event file into a folder that exists; `flush` hands it to the system."""

    def __init__(self, folder: pathlib.Path):
        # TensorBoard reads the files of a folder in the order of their names.
        self._file = (folder / f"events.out.tfevents.{time.time_ns():019}").open("xb")
        self._write(_bytes(3, b"brain.Event:2"))

    def start(self, step: int) -> None:
        """Tells TensorBoard to drop what older files have of this step and later ones."""
        self._write(_varint_field(2, step) + _bytes(7, _varint_field(1, 1)))  # SessionLog.START

    def scalar(self, step: int, tag: str, value: float) -> None:
        """Writes a number, which is rounded to 32 bits."""
        self._summary(step, tag, _key(2, 5) + struct.pack("<f", value))

    def text(self, step: int, tag: str, text: str) -> None:
        """Writes a text, which TensorBoard reads as Markdown."""
        shape = _bytes(2, _varint_field(1, 1))  # One dimension of size 1.
        tensor = _varint_field(1, _DT_STRING) + _bytes(2, shape) + _bytes(8, text.encode())
        plugin = _bytes(1, _bytes(1, b"text"))  # Without it, the tensor would not be shown.
        self._summary(step, f"{tag}/text_summary", _bytes(8, tensor) + _bytes(9, plugin))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _summary(self, step: int, tag: str, content: bytes) -> None:
        value = _bytes(1, tag.encode()) + content
        self._write(_varint_field(2, step) + _bytes(5, _bytes(1, value)))

    def _write(self, content: bytes) -> None:
        event = _key(1, 1) + struct.pack("<d", time.time()) + content
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(number: int) -> bytes:
    """Encodes 300 as AC 02: seven bits a byte, the lowest first; all but the last have bit 8."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _varint_field(field: int, number: int) -> bytes:
    return _key(field, 0) + _varint(number)


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, 2) + _varint(len(content)) + content


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_CRC_OF_BYTE = [_crc_of_byte(byte) for byte in range(256)]


def _masked_crc(content: bytes) -> bytes:
    """Returns the CRC-32C in the form of TFRecords, which rotate it and add a constant."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC_OF_BYTE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
