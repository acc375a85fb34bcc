"""Read a TensorFlow checkpoint ("tensor bundle") with NumPy alone; no TensorFlow, nothing is executed.

A checkpoint PREFIX is two kinds of files. PREFIX.index is a LevelDB table: sorted key-value blocks, the keys variable
names, the values ``BundleEntryProto`` messages that say dtype, shape and place. PREFIX.data-00000-of-0000N hold the
arrays, raw and little-endian. Formats: LevelDB's doc/table_format.md; tensorflow/core/protobuf/tensor_bundle.proto.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

_TABLE_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # after each block: one byte of compression type, four of checksum
# Numbers of tensorflow.DataType that plain arrays have.
_STRING = 7
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2", 22: "<u4", 23: "<u8"}


def read_tf_checkpoint(prefix: Path) -> dict[str, np.ndarray]:
    """All numeric variables of the checkpoint ``prefix`` (the path without ``.index``), by name.

    The index is verified by its checksums, the arrays only by their lengths: theirs would take minutes in Python.

    Raises:
        ValueError: a file is missing, cut short or not of this format, or a variable is of an unsupported kind.
    """
    index = prefix.with_name(prefix.name + ".index")
    if not index.is_file():
        raise ValueError(f"no file {index}; give the prefix of a TensorFlow checkpoint, as in FOLDER/model.ckpt-900000")
    try:
        return _variables(prefix, {key.decode(): _message(value) for key, value in _table(index.read_bytes())})
    except (LookupError, TypeError, OverflowError, UnicodeDecodeError) as error:  # numbers that are messages, and so on
        raise ValueError(f"{index} is damaged ({error!r}); copy the checkpoint again") from error


def _variables(prefix: Path, entries: dict[str, dict[int, list]]) -> dict[str, np.ndarray]:
    header = entries.pop("")  # BundleHeaderProto
    num_shards = _number(header, 1)
    shards: dict[int, np.ndarray] = {}
    variables = {}
    for name, entry in entries.items():
        if _number(entry, 1) == _STRING:  # notes of the program, no weights
            continue
        shard = _number(entry, 3)
        if shard not in shards:
            path = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{num_shards:05d}")
            if not path.is_file():
                raise ValueError(f"no file {path}, which holds {name}; copy all files of the checkpoint")
            shards[shard] = np.memmap(path, mode="r") if path.stat().st_size else np.empty(0, np.uint8)
        variables[name] = _array(name, entry, shards[shard])
    return variables


def _array(name: str, entry: dict[int, list], shard: np.ndarray) -> np.ndarray:
    dtype = _DTYPES.get(_number(entry, 1))
    if dtype is None or 7 in entry:
        raise ValueError(f"variable {name} is partitioned or not numeric; save it again as one plain array")
    shape = [_number(_message(dim), 1) for dim in _message(entry.get(2, [b""])[0]).get(2, [])]
    offset, size = _number(entry, 4), _number(entry, 5)
    expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size != expected or offset + size > len(shard):
        raise ValueError(f"variable {name} is cut short in the checkpoint; copy all its files again")
    return np.array(shard[offset : offset + size]).view(dtype).reshape(shape)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key-value pairs of a LevelDB table: its footer points to an index block, that one to the data blocks."""
    footer = data[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != _TABLE_MAGIC:
        raise ValueError("the .index file is no checkpoint index or is cut short; copy the checkpoint again")
    (_, _, *index_block), _ = _varints(footer, 4)
    for _, handle in _block(data, *index_block):
        data_block, _ = _varints(handle, 2)
        yield from _block(data, *data_block)


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of a block, whose keys leave out the bytes that they share with the key before."""
    end = offset + size
    block, compression, checksum = data[offset:end], data[end : end + 1], data[end + 1 : end + _TRAILER_BYTES]
    if int.from_bytes(checksum, "little") != _masked_crc32c(block + compression):
        raise ValueError("the .index file is damaged (a checksum is wrong); copy the checkpoint again")
    if compression != b"\0":
        raise ValueError("the .index file is compressed, which TensorFlow does not do; save the checkpoint again")
    num_restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 * (num_restarts + 1)
    position, key = 0, b""
    while position < end:
        (shared, rest, length), position = _varints(block, 3, position)
        key = key[:shared] + block[position : position + rest]
        position += rest
        yield key, block[position : position + length]
        position += length


def _varints(data: bytes, count: int, position: int = 0) -> tuple[list[int], int]:
    """``count`` base-128 integers from ``position``, least significant group first, and the position after them."""
    values = []
    for _ in range(count):
        value = shift = 0
        while shift < 70:  # ten bytes hold 64 bits
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if value >= 1 << 63:
            raise OverflowError("a negative or too large number")
        values.append(value)
    return values, position


def _message(data: bytes) -> dict[int, list[int | bytes]]:
    """A protocol-buffer message as field number -> its values: integers, or bytes for what has a length."""
    fields: dict[int, list[int | bytes]] = {}
    position = 0
    while position < len(data):
        (tag,), position = _varints(data, 1, position)
        match tag & 7:
            case 0:
                (value,), position = _varints(data, 1, position)
            case 2:
                (length,), position = _varints(data, 1, position)
                value, position = data[position : position + length], position + length
            case 1 | 5 as wire_type:
                length = 8 if wire_type == 1 else 4
                value, position = int.from_bytes(data[position : position + length], "little"), position + length
            case _:
                raise ValueError(f"the .index file is damaged (wire type {tag & 7}); copy the checkpoint again")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(message: dict[int, list[int | bytes]], field: int) -> int:
    """An integer field; 0 where it is left out, as protocol buffers do with zeros."""
    return message.get(field, [0])[-1]


def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _crc32c_table()


def _masked_crc32c(data: bytes) -> int:
    """Castagnoli's checksum, turned and shifted as LevelDB stores it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF
