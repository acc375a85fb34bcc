"""The checkpoint reader on tables and bundles assembled byte by byte from the format's description."""

import random
import struct

import numpy as np
import pytest

from sagan_base.tf_checkpoint import read_tf_checkpoint


def varint(value):
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def crc32c(data):
    """Bit by bit: the remainder of a polynomial division over GF(2), in the reflected order of bits."""
    crc = 2**32 - 1
    for byte in data:
        for bit in range(8):
            carry = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ (0x82F63B78 * carry)
    return crc ^ 2**32 - 1


def test_the_checksum_of_this_test_is_the_standard_one():
    assert crc32c(b"123456789") == 0xE3069283


def block(pairs):
    """Entries with shared prefixes left out, one restart point, then type and masked checksum."""
    out, previous = b"", b""
    for key, value in pairs:
        shared = 0
        while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    out += struct.pack("<II", 0, 1) + b"\0"
    crc = crc32c(out)
    return out + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def table(blocks):
    """Data blocks, an index block of their places, and the footer."""
    out, index = b"", []
    for pairs in blocks:
        data = block(pairs)
        index.append((pairs[-1][0], varint(len(out)) + varint(len(data) - 5)))
        out += data
    meta, data = block([]), block(index)
    footer = varint(len(out)) + varint(len(meta) - 5) + varint(len(out) + len(meta)) + varint(len(data) - 5)
    return out + meta + data + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def entry(dtype, shape, shard, offset, size):
    dims = b"".join(field(2, field(1, side)) for side in shape)
    return field(1, dtype) + field(2, dims) + field(3, shard) + field(4, offset) + field(5, size) + b"\x35\1\2\3\4"


ARRAYS = {
    "scope/bias": (1, np.arange(3, dtype="<f4")),
    "scope/kernel": (1, np.arange(200 * 3, dtype="<f4").reshape(200, 3)),
    "scope/step": (9, np.array(12345678901, dtype="<i8")),
    "zeta": (2, np.linspace(0, 1, 5)),
}


@pytest.fixture
def prefix(tmp_path):
    """Two shards, two data blocks."""
    shards, pairs = [b"", b"padding"], [(b"", field(1, 2))]
    for number, (name, (dtype, array)) in enumerate(sorted(ARRAYS.items())):
        shard = number % 2
        pairs.append((name.encode(), entry(dtype, array.shape, shard, len(shards[shard]), array.nbytes)))
        shards[shard] += array.tobytes()
    (tmp_path / "model.index").write_bytes(table([pairs[:3], pairs[3:]]))
    for number, data in enumerate(shards):
        (tmp_path / f"model.data-0000{number}-of-00002").write_bytes(data)
    return tmp_path / "model"


def test_every_variable_is_read_from_its_shard_with_its_dtype_and_shape(prefix):
    variables = read_tf_checkpoint(prefix)
    assert variables.keys() == ARRAYS.keys()
    for name, (_, array) in ARRAYS.items():
        np.testing.assert_array_equal(variables[name], array)
        assert (variables[name].dtype, variables[name].shape) == (array.dtype, array.shape)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [(".index", "give the prefix of a TensorFlow checkpoint"), (".data-00001-of-00002", "which holds scope/kernel")],
)
def test_a_missing_file_is_named(prefix, suffix, message):
    prefix.with_name(prefix.name + suffix).unlink()
    with pytest.raises(ValueError, match=message):
        read_tf_checkpoint(prefix)


def test_a_data_file_cut_short_is_refused_by_the_variable_it_lacks(prefix):
    path = prefix.with_name("model.data-00001-of-00002")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="variable zeta is cut short"):
        read_tf_checkpoint(prefix)


@pytest.mark.parametrize("keep", [0, 30, -1])
def test_an_index_cut_short_is_refused(prefix, keep):
    index = prefix.with_name("model.index")
    index.write_bytes(index.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"no checkpoint index or is cut short"):
        read_tf_checkpoint(prefix)


def test_any_damaged_byte_of_the_index_that_matters_is_refused(prefix):
    index = prefix.with_name("model.index")
    sound = index.read_bytes()
    unread = len(block([]))  # the meta block, which names filters that a checkpoint has not
    accepted = 0
    for position in range(len(sound)):
        damaged = bytearray(sound)
        damaged[position] ^= 0x55
        index.write_bytes(damaged)
        try:
            read_tf_checkpoint(prefix)
        except ValueError as error:
            assert str(index) in str(error) or ".index" in str(error)
        else:
            accepted += 1
    assert accepted <= unread + 40  # and the padding of the footer


@pytest.mark.parametrize("extra", [field(7, b""), field(1, 14)])  # slices of a partitioned variable; bfloat16
def test_what_is_not_a_plain_array_is_refused_by_name(tmp_path, extra):
    pairs = [(b"", field(1, 1)), (b"words", entry(1, (1,), 0, 0, 4) + extra)]
    (tmp_path / "m.index").write_bytes(table([pairs]))
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(4))
    with pytest.raises(ValueError, match="variable words is partitioned or not numeric"):
        read_tf_checkpoint(tmp_path / "m")


def test_strings_are_passed_over(tmp_path):
    pairs = [(b"", field(1, 1)), (b"a note", entry(7, (), 0, 0, 9)), (b"weight", entry(1, (1,), 0, 9, 4))]
    (tmp_path / "m.index").write_bytes(table([pairs]))
    (tmp_path / "m.data-00000-of-00001").write_bytes(b"any words" + np.float32(2).tobytes())
    assert read_tf_checkpoint(tmp_path / "m") == {"weight": 2.0}


def test_entries_that_mean_nothing_are_refused_whatever_their_checksums(prefix):
    """Changed at random before the checksums are made, so that they are right."""
    refused = 0
    for seed in range(150):
        dice = random.Random(seed)
        value = bytearray(entry(1, (3,), dice.randrange(2), 0, 12))
        for _ in range(dice.randint(1, 4)):
            value[dice.randrange(len(value))] = dice.randrange(256)
        header = dice.choice((field(1, 2), field(1, 2**70), field(1, b"two"), b"\xff"))
        index = table([[(b"", header), (dice.choice((b"scope/bias", b"\xff")), bytes(value))]])
        prefix.with_name("model.index").write_bytes(index)
        try:
            read_tf_checkpoint(prefix)
        except ValueError:
            refused += 1
    assert refused > 100
