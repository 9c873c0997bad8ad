"""PyTorch checkpoints are read as torch reads them, and no pickle is ever executed."""

import collections
import os
import pickle
import zipfile

import numpy as np
import pytest
from helpers.mutations import mutations
from helpers.tensor_files import assert_holds
from helpers.torch_archive import (
    ORDERED_DICT,
    pickled,
    pickled_dict,
    pickled_tensor,
    write_archive,
    write_state_dict,
)

from urgt_jax.errors import UserError
from urgt_jax.weights.tensor_files import open_tensors
from urgt_jax.weights.tensors import DTYPES

NUMBERS = np.arange(24, dtype=np.float32)
STORAGE = {"0": NUMBERS.tobytes()}


@pytest.mark.parametrize("level", ["model_state_dict", None])
def test_open_torch_reads_every_dtype(tmp_path, level):
    rng = np.random.default_rng(0)
    arrays = {f"of.{dtype}": (rng.random((3, 5)) * 100).astype(dtype) for dtype in DTYPES.values()}
    arrays["zero.dim"] = np.array(7.5, np.float32)
    arrays["empty"] = np.zeros((0, 4), np.float16)
    path = write_state_dict(tmp_path / "w.pth", arrays, level)
    prefix = f"{level}." if level else ""
    assert_holds(path, {prefix + name: array for name, array in arrays.items()})


@pytest.mark.parametrize("compressed", [False, True])
def test_open_torch_reads_views_of_one_storage(tmp_path, compressed):
    table = NUMBERS.reshape(4, 6)
    views = {
        "whole": ((4, 6), (6, 1), 0, table),
        "transposed": ((6, 4), (1, 6), 0, table.T),
        "column": ((4,), (6,), 2, table[:, 2]),
        "part": ((2, 2), (12, 2), 7, table[1::2, 1:4:2]),
        "repeated": ((3, 6), (0, 1), 6, np.broadcast_to(table[1], (3, 6))),
        "number": ((), (), 23, table[3, 5]),
        "nothing": ((0, 6), (6, 1), 24, table[4:]),
        "sides": ((2, 1, 3), (6, 99, 1), 12, table[2:, None, :3]),
    }
    items = {}
    arrays = {}
    for name, (shape, strides, offset, array) in views.items():
        items[name] = pickled_tensor(shape, strides, offset)
        arrays[name] = np.asarray(array)
    path = write_archive(tmp_path / "w.pth", pickled_dict(items), STORAGE, compressed=compressed)
    assert_holds(path, arrays)


def test_open_torch_joins_keys_of_nested_containers_and_skips_plain_values(tmp_path):
    leaf = pickled_tensor((2,), (1,), 3)
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + leaf + b"\x88" + ORDERED_DICT + b"tR"
    of_bytes = pickled_tensor(
        (3,), (1,), 1, key="b", length=8, storage_class="torch.storage\nUntypedStorage",
        dtype="uint8",
    )  # fmt: skip
    ordered = ORDERED_DICT + b"(" + pickled("w") + leaf + b"u"
    ordered += pickled_dict({"_metadata": pickled({"": {"version": 1}})}) + b"b"
    optimizer = pickled_dict({"step": pickled(3.5), "p": parameter})
    items = {
        "model": ordered,
        "list": b"](" + leaf + b"K\x01Ne",
        "state": pickled_dict({0: optimizer, (1, 2): leaf}),
        "bytes": of_bytes,
        "device": b"ctorch\ndevice\n" + pickled("cuda:0") + b"\x85R",
        "size": b"ctorch\nSize\n" + pickled((2, 3)) + b"\x85R",
        "dtype": b"ctorch\nfloat32\n",
        "set": b"c__builtin__\nset\n](K\x01e\x85R",
        "names": pickled(["a", None, True, 10**30, -1]),
    }
    storages = {**STORAGE, "b": bytes(range(8))}
    path = write_archive(tmp_path / "w.bin", pickled_dict(items), storages)
    tensors = open_tensors(path).tensors
    assert set(tensors) == {"model.w", "list.0", "state.0.p", "state.(1, 2)", "bytes"}
    np.testing.assert_array_equal(tensors["state.0.p"].read(), [3, 4])
    np.testing.assert_array_equal(tensors["bytes"].read(), np.array([1, 2, 3], np.uint8))


# Pickles that try to run something


class RunCommand:
    """Runs a shell command when its pickle is loaded."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Nested:
    """Hides another object among the arguments of an allowed call."""

    def __init__(self, inner):
        self.inner = inner

    def __reduce__(self):
        return collections.OrderedDict, ([["weights", self.inner]],)


def hostile_pickles(command: str) -> dict[str, bytes]:
    """Pickles that run a command, by what they ask for."""
    text = pickled(command)
    code = pickled(f"import os; os.system({command!r})")
    return {
        "posix.system": pickled(RunCommand(command)),
        "os.system": b"cos\nsystem\n" + text + b"\x85R",
        "posix.system ": pickled({"model": [Nested(RunCommand(command))]}),
        "subprocess.Popen": b"csubprocess\nPopen\n)\x81}" + pickled("args") + text + b"sb",
        "builtins.exec": b"c__builtin__\nexec\n" + code + b"\x85R",
        "builtins.getattr": (
            b"\x8c\x08builtins\x8c\x07getattr\x93ctorch\ndevice\n" + text + b"\x86R"
        ),
        "torch._utils._rebuild_tensor_v2.__globals__": (
            b"\x8c\x0ctorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93"
        ),
        "torch.hub.load": b"ctorch.hub\nload\n" + text + b"\x85R",
        "torch.storage._load_from_bytes": b"ctorch.storage\n_load_from_bytes\n" + text + b"\x85R",
    }


@pytest.mark.parametrize("asked", hostile_pickles(""))
def test_open_torch_executes_no_pickle(tmp_path, asked):
    marker = tmp_path / "marker"
    hostile = hostile_pickles(f"touch {marker}")[asked]
    content = pickled_dict({"a": pickled_tensor((2,), (1,)), "b": hostile})
    path = write_archive(tmp_path / "w.pth", content, STORAGE)
    with pytest.raises(UserError, match=f"asks to run {asked.strip()};"):
        open_tensors(path)
    assert not marker.exists()


def test_hostile_pickles_of_these_tests_do_run(tmp_path):
    hostile = hostile_pickles(f"touch {tmp_path / 'marker'}")["posix.system"]
    pickle.loads(b"\x80\x02" + hostile + b".")
    assert (tmp_path / "marker").exists()


# Pickles that torch.save does not write


def lists_that_share_lists(levels: int) -> bytes:
    """A list of lists of lists, each of which holds the next one ten times."""
    lists = b"]q\x00K\x01a"
    for level in range(levels):
        lists += b"](" + bytes([ord("h"), level]) * 10 + b"e" + bytes([ord("q"), level + 1])
    return lists


WRONG_PICKLES = {
    "call of a class": b"ctorch\nFloatStorage\n)R",
    "object of a class": b"ctorch\nFloatStorage\n)\x81",
    "object of an allowed function": b"ctorch._utils\n_rebuild_tensor_v2\n)\x81",
    "call of a list": b"])R",
    "too few arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "arguments that are no tuple": b"ctorch._utils\n_rebuild_tensor_v2\n]R",
    "no storage": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00)))NtR",
    "state of an argument": b"K\x01}b0",
    "extension": b"\x82\x01",
    "another reference": pickled(("module", "x")) + b"Q",
    "forged storage": b"ctorch._utils\n_rebuild_tensor_v2\n("
    + pickled(("Float", "0", 24)) + b"K\x00" + pickled((2,)) + pickled((1,)) + b"\x89NtR",
    "storage of a forged class": b"ctorch._utils\n_rebuild_tensor_v2\n("
    + pickled(("storage", "FloatStorage", "0", "cpu", 24)) + b"Q"
    + b"K\x00" + pickled((2,)) + pickled((1,)) + b"\x89NtR",
    "string for a shape": pickled_tensor("ab", (1, 1)),
    "list in itself": b"]q\x07h\x07a",
    "dict in itself": b"}q\x07" + pickled("x")[:-2] + b"h\x07s",
    "item of a list": b"]K\x00K\x01s",
    "lists that share lists": lists_that_share_lists(60),
    "lists in lists": b"]" * 100_000 + b"a" * 99_999,
    "calls in calls": b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00NN\x86q\x01"
    + b"h\x00Nh\x01\x87q\x01" * 100_000 + b"0h\x00h\x01R",
    "nested tuples as a key": b"}" + b")" + b"\x85" * 200_000 + b"K\x01s",
    "tuples of one tuple as a key": b"})q\x00" + b"h\x00h\x00\x86q\x00" * 200 + b"K\x01s",
    "long name": pickled_dict({"n" * 2000: pickled_tensor((2,), (1,))}),
    "one name twice": pickled_dict(
        {
            "a.b": pickled_tensor((2,), (1,)),
            "a": pickled_dict({"b": pickled_tensor((2,), (1,))}),
        }
    ),
    "missing text": b"X\xff\xff\xff\x7fabc",
    "missing frame": b"\x95" + b"\xff" * 7 + b"\x00",
    "large memo": b"K\x01r\xff\xff\xff\xffh\x05",
    "nothing": b"",
    "past the end": pickled_tensor((5, 5), (5, 1)),
    "past the end by offset": pickled_tensor((24,), (1,), 1),
    "past the end by strides": pickled_tensor((2, 2), (23, 1)),
    "negative offset": pickled_tensor((2,), (1,), -1),
    "negative stride": pickled_tensor((2,), (-1,), 5),
    "negative side": pickled_tensor((-2,), (1,)),
    "negative length": pickled_tensor((2,), (1,), length=-1),
    "length beyond the data": pickled_tensor((2,), (1,), length=25),
    "missing storage": pickled_tensor((2,), (1,), key="7"),
    "huge shape": pickled_tensor((1 << 40, 1 << 40), (0, 0)),
    "huge shape without numbers": pickled_tensor((0, 1 << 57, 1 << 57), (0, 0, 0)),
    "one number repeated very often": pickled_tensor((1 << 20, 1 << 20), (0, 0)),
    "bool for a side": pickled_tensor((True,), (1,)),
    "too few strides": pickled_tensor((2, 2), (1,)),
    "complex numbers": pickled_tensor((2,), (1,), length=2, storage_class="torch\nComplexFloat"),
    "numbers of eight bits": pickled_tensor(
        (2,), (1,), length=8, storage_class="torch.storage\nUntypedStorage", dtype="float8_e4m3fn"
    ),
    "postponed negation": pickled_tensor((2,), (1,), metadata={"neg": True}),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_PICKLES)
def test_open_torch_reports_wrong_pickles_in_one_short_line(tmp_path, kind):
    path = write_archive(tmp_path / "w.pth", WRONG_PICKLES[kind], STORAGE)
    with pytest.raises(UserError, match="w.pth") as caught:
        open_tensors(path)
    message = str(caught.value)
    assert len(message) < 500 and message.isprintable()


def test_open_torch_survives_random_changes_of_a_pickle(tmp_path):
    leaf = pickled_tensor((4, 6), (6, 1))
    mixed = b"](" + leaf + pickled([1, None, "x", (2.5, True)]) + b"e"
    content = pickled_dict({"a": leaf, "b": mixed})
    rng = np.random.default_rng(2)
    for _ in range(400):
        changed = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            changed[position] = rng.choice([rng.integers(256), *b"(trRbueahqQ0."])
        path = write_archive(tmp_path / "w", bytes(changed), STORAGE)
        try:
            for tensor in open_tensors(path).tensors.values():
                assert tensor.read().shape == tensor.shape
        except UserError as error:
            assert str(error)


def test_open_torch_ignores_checksums_that_torch_left_out(tmp_path):
    path = write_state_dict(tmp_path / "w.pth", {"a": NUMBERS})
    content = bytearray(path.read_bytes())
    for signature, offset in (b"PK\x03\x04", 14), (b"PK\x01\x02", 16):
        position = content.find(signature)
        while position >= 0:
            content[position + offset : position + offset + 4] = bytes(4)
            position = content.find(signature, position + 1)
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is not None
    assert_holds(path, {"a": NUMBERS})


def test_no_change_of_a_torch_file_goes_unnoticed(tmp_path):
    arrays = {"a": NUMBERS, "b": np.arange(1000, dtype=np.float32)}
    path = write_state_dict(tmp_path / "w.pth", arrays)
    for what, changed in mutations(path.read_bytes(), 300):
        path.write_bytes(changed)
        try:
            read = {name: x.read() for name, x in open_tensors(path).tensors.items()}
        except UserError as error:
            assert "w.pth" in str(error), what
            continue
        assert set(read) == set(arrays), what
        for name, array in read.items():
            assert (array == arrays[name]).all(), what


def test_open_torch_verifies_compressed_storages_whole(tmp_path):
    """Also where a tensor is only the beginning of its storage, which zipfile would not notice."""
    part = pickled_tensor((2,), (1,))
    path = write_archive(tmp_path / "w.pth", pickled_dict({"a": part}), STORAGE, compressed=True)
    open_tensors(path).tensors["a"].read()
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = next(x for x in archive.infolist() if "/data/" in x.filename)
    record = content.rindex(entry.filename.encode()) - 46  # in the directory at the end
    content[record + 16] ^= 1  # of the checksum
    path.write_bytes(content)
    with pytest.raises(UserError, match="w.pth is damaged"):
        open_tensors(path).tensors["a"].read()


def test_open_torch_does_not_unpack_what_is_absurdly_large(tmp_path):
    markers = b"}" + b"(" * 90_000_000 + b"."  # 90 kB in the file
    path = write_archive(tmp_path / "markers.pth", markers, STORAGE, compressed=True)
    assert path.stat().length < 1_000_000
    with pytest.raises(UserError, match="markers.pth is damaged .* would unpack to 0.1 GB"):
        open_tensors(path)
    path = write_archive(tmp_path / "long.pth", b"}" + b"(" * 20_000_000, STORAGE)
    with pytest.raises(UserError, match="its pickle has 20 MB"):
        open_tensors(path)


def test_open_torch_rejects_big_endian_files(tmp_path):
    path = write_archive(tmp_path / "w", b"}", STORAGE, byte_order=b"big")
    with pytest.raises(UserError, match="big-endian"):
        open_tensors(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_open_torch_reports_a_file_that_changes_while_it_is_open(tmp_path, compressed):
    content = pickled_dict({"a": pickled_tensor((2,), (1,))})
    path = write_archive(tmp_path / "w", content, STORAGE, compressed=compressed)
    tensor = open_tensors(path).tensors["a"]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="damaged or truncated: model/data/0"):
        tensor.read()
    path.unlink()
    with pytest.raises(UserError, match="damaged or truncated: model/data/0"):
        tensor.read()
