"""Weight files: read as they were written, and told apart from damaged and hostile ones."""

import collections
import json
import os
import pickle
import resource
import struct
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from urgt_jax.errors import UserError
from urgt_jax.weights import tensor_files as tensorfiles
from urgt_jax.weights.tensor_files import open_tensors, write_safetensors, write_torch
from urgt_jax.weights.tensors import DTYPES, _array


def _arrays() -> dict[str, np.ndarray]:
    """One array of each dtype, and of each odd shape."""
    draw = np.random.default_rng(0)
    arrays = {f"of.{dtype}": (draw.random((3, 5)) * 100).astype(dtype) for dtype in DTYPES}
    arrays["zero.dim"] = np.array(7.5, np.float32)
    arrays["empty"] = np.zeros((0, 4), np.float16)
    arrays["turned"] = np.arange(24, dtype=np.int16).reshape(4, 6).T
    return arrays


def _shapes(arrays: dict) -> dict:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _equal(path: Path, arrays: dict, prefix: str = "") -> None:
    tensors = open_tensors(path).tensors
    assert set(tensors) == {prefix + name for name in arrays}
    for name, array in arrays.items():
        found = tensors[prefix + name]
        again = found.read()
        assert type(again) is np.ndarray and again.flags["C_CONTIGUOUS"] and again.flags.owndata
        assert (
            (found.shape, found.dtype) == (again.shape, again.dtype) == (array.shape, array.dtype)
        )
        assert again.tobytes() == array.tobytes(), name


# Pickles made by hand, as torch makes them


def _atom(value) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def _tensor(shape, strides, offset=0, key="0", length=24, kind="Float", more=b"") -> bytes:
    dtype = kind if kind.startswith("storage\n") else f"\n{kind}Storage"
    module, name = dtype.split("\n")
    place = f"ctorch{'.' if module else ''}{module}\n{name}\n".encode()
    place = b"(" + _atom("storage") + place + _atom(key) + _atom("cpu") + _atom(length) + b"tQ"
    call = b"_rebuild_tensor_v3" if more else b"_rebuild_tensor_v2"
    rest = (
        _atom(offset) + _atom(shape) + _atom(strides) + b"\x89" + b"ccollections\nOrderedDict\n)R"
    )
    return b"ctorch._utils\n" + call + b"\n(" + place + rest + more + b"tR"


def _dict(items: dict) -> bytes:
    """A dict of values that are pickled already."""
    return b"}(" + b"".join(_atom(key) + value for key, value in items.items()) + b"u"


def _save(path: Path, content: bytes, storages=None, order=b"little", packed=False) -> Path:
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("model/byteorder", order)
        for key, data in (storages or {"0": NUMBERS.tobytes()}).items():
            archive.writestr(f"model/data/{key}", data)
    return path


NUMBERS = np.arange(24, dtype=np.float32)


@pytest.mark.parametrize("packed", [False, True])
def test_views_of_one_storage(tmp_path, packed):
    table = NUMBERS.reshape(4, 6)
    views = {
        "whole": ((4, 6), (6, 1), 0, table),
        "turned": ((6, 4), (1, 6), 0, table.T),
        "column": ((4,), (6,), 2, table[:, 2]),
        "part": ((2, 2), (12, 2), 7, table[1::2, 1:4:2]),
        "repeated": ((3, 6), (0, 1), 6, np.broadcast_to(table[1], (3, 6))),
        "number": ((), (), 23, table[3, 5]),
        "nothing": ((0, 6), (6, 1), 24, table[4:]),
        "sides": ((2, 1, 3), (6, 99, 1), 12, table[2:, None, :3]),
    }
    content = _dict({name: _tensor(s, t, o) for name, (s, t, o, _) in views.items()})
    path = _save(tmp_path / "w.pth", content, packed=packed)
    _equal(path, {name: np.asarray(expected) for name, (*_, expected) in views.items()})


def test_nested_containers_and_plain_values(tmp_path):
    leaf = _tensor((2,), (1,), 3)
    parameter = (
        b"ctorch._utils\n_rebuild_parameter\n(" + leaf + b"\x88ccollections\nOrderedDict\n)RtR"
    )
    half = _tensor((3,), (1,), 1, "h", 8, "storage\nUntypedStorage", b"ctorch\nuint8\n")
    ordered = b"ccollections\nOrderedDict\n)R(" + _atom("w") + leaf + b"u"
    ordered += _dict({"_metadata": _atom({"": {"version": 1}})}) + b"b"
    items = {
        "model": ordered,
        "list": b"](" + leaf + b"K\x01Ne",
        "state": _dict({0: _dict({"step": _atom(3.5), "p": parameter}), (1, 2): leaf}),
        "bytes": half,
        "device": b"ctorch\ndevice\n" + _atom("cuda:0") + b"\x85R",
        "size": b"ctorch\nSize\n" + _atom((2, 3)) + b"\x85R",
        "dtype": b"ctorch\nfloat32\n",
        "set": b"c__builtin__\nset\n](K\x01e\x85R",
        "names": _atom(["a", None, True, 10**30, -1]),
    }
    storages = {"0": NUMBERS.tobytes(), "h": bytes(range(8))}
    path = _save(tmp_path / "w.bin", _dict(items), storages)
    tensors = open_tensors(path).tensors
    names = {"model.w", "list.0", "state.0.p", "state.(1, 2)", "bytes"}
    assert set(tensors) == names
    np.testing.assert_array_equal(tensors["state.0.p"].read(), [3, 4])
    np.testing.assert_array_equal(tensors["bytes"].read(), np.array([1, 2, 3], np.uint8))


# What must not be read


class _Run:
    """Runs a command when a pickle of it is loaded."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class _Nested:
    def __init__(self, inner):
        self.inner = inner

    def __reduce__(self):
        return collections.OrderedDict, ([["weights", self.inner]],)


def _hostile(command: str) -> dict[str, bytes]:
    """Pickles that run a command, by every way there is."""
    run = _atom(_Run(command))
    text = _atom(command)
    return {
        "posix.system": run,
        "os.system": b"cos\nsystem\n" + text + b"\x85R",
        "posix.system ": _atom({"model": [_Nested(_Run(command))]}),
        "subprocess.Popen": b"csubprocess\nPopen\n)\x81}" + _atom("args") + text + b"sb",
        "builtins.exec": b"c__builtin__\nexec\n"
        + _atom(f"import os; os.system({command!r})")
        + b"\x85R",
        "builtins.getattr": b"\x8c\x08builtins\x8c\x07getattr\x93ctorch\ndevice\n"
        + text
        + b"\x86R",
        "torch._utils._rebuild_tensor_v2.__globals__": (
            b"\x8c\x0ctorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93"
        ),
        "torch.hub.load": b"ctorch.hub\nload\n" + text + b"\x85R",
        "torch.storage._load_from_bytes": b"ctorch.storage\n_load_from_bytes\n" + text + b"\x85R",
    }


@pytest.mark.parametrize("asked", _hostile(""))
def test_no_pickle_is_run(tmp_path, asked):
    marker = tmp_path / "marker"
    content = _hostile(f"touch {marker}")[asked]
    path = _save(tmp_path / "w.pth", _dict({"a": _tensor((2,), (1,)), "b": content}))
    with pytest.raises(UserError, match=f"asks to run {asked.strip()};"):
        open_tensors(path)
    assert not marker.exists()


def test_the_hostile_pickles_are_real(tmp_path):
    pickle.loads(b"\x80\x02" + _hostile(f"touch {tmp_path / 'marker'}")["posix.system"] + b".")
    assert (tmp_path / "marker").exists()


def _shared_lists(levels: int) -> bytes:
    """A list of lists of lists, each of which holds the next one ten times."""
    lists = b"]q\x00K\x01a"
    for level in range(levels):
        lists += b"](" + bytes([ord("h"), level]) * 10 + b"e" + bytes([ord("q"), level + 1])
    return lists


REFUSED = {
    "a call of a name": b"ctorch\nFloatStorage\n)R",
    "an object of a type": b"ctorch\nFloatStorage\n)\x81",
    "an object of an allowed call": b"ctorch._utils\n_rebuild_tensor_v2\n)\x81",
    "too few arguments": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    "no storage": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00)))NtR",
    "state on an argument": b"K\x01}b0",
    "an extension": b"\x82\x01",
    "another reference": _atom(("module", "x")) + b"Q",
    "a forged storage": b"ctorch._utils\n_rebuild_tensor_v2\n("
    + _atom(("Float", "0", 24)) + b"K\x00" + _atom((2,)) + _atom((1,)) + b"\x89NtR",
    "a string for a shape": _tensor("ab", (1, 1)),
    "a list in itself": b"]q\x07h\x07a",
    "a dict in itself": b"}q\x07" + _atom("x")[:-2] + b"h\x07s",
    "lists that share lists": _shared_lists(60),
    "lists in lists": b"]" * 100_000 + b"a" * 99_999,
    "tuples as a key": b"}" + b")" + b"\x85" * 200_000 + b"K\x01s",
    "tuples of one tuple as a key": b"})q\x00" + b"h\x00h\x00\x86q\x00" * 200 + b"K\x01s",
    "a long name": _dict({"n" * 2000: _tensor((2,), (1,))}),
    "one name twice": _dict({"a.b": _tensor((2,), (1,)), "a": _dict({"b": _tensor((2,), (1,))})}),
    "long text that is not there": b"X\xff\xff\xff\x7fabc",
    "a frame that is not there": b"\x95" + b"\xff" * 7 + b"\x00",
    "an endless memo": b"K\x01r\xff\xff\xff\xffh\x05",
    "nothing": b"",
    "beyond the end": _tensor((5, 5), (5, 1)),
    "beyond the end by offset": _tensor((24,), (1,), 1),
    "beyond the end by strides": _tensor((2, 2), (23, 1)),
    "a negative offset": _tensor((2,), (1,), -1),
    "a negative stride": _tensor((2,), (-1,), 5),
    "a negative side": _tensor((-2,), (1,)),
    "a negative length": _tensor((2,), (1,), length=-1),
    "a longer storage than there is": _tensor((2,), (1,), length=25),
    "a missing storage": _tensor((2,), (1,), key="7"),
    "a huge shape": _tensor((1 << 40, 1 << 40), (0, 0)),
    "a huge shape with nothing in it": _tensor((0, 1 << 57, 1 << 57), (0, 0, 0)),
    "one number, repeated very often": _tensor((1 << 20, 1 << 20), (0, 0)),
    "numbers for true": _tensor((True,), (1,)),
    "too few strides": _tensor((2, 2), (1,)),
    "complex numbers": _tensor((2,), (1,), length=2, kind="ComplexFloat"),
    "numbers of eight bits": _tensor(
        (2,), (1,), length=8, kind="storage\nUntypedStorage", more=b"ctorch\nfloat8_e4m3fn\n"
    ),
    "negated numbers": _tensor((2,), (1,))[:-2] + _atom({"neg": True}) + b"tR",
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_torch_files(tmp_path, what):
    path = _save(tmp_path / "w.pth", REFUSED[what])
    with pytest.raises(UserError, match="w.pth") as caught:
        open_tensors(path)
    told = str(caught.value)
    assert len(told) < 500 and told.isprintable()


def _try(path: Path) -> None:
    """Reads a file that may be damaged: it ends well or with a UserError."""
    try:
        for tensor in open_tensors(path).tensors.values():
            assert tensor.read().shape == tensor.shape
    except UserError as error:
        assert str(error)


@pytest.fixture(scope="module", params=["safetensors", "torch", "packed"])
def whole(request, tmp_path_factory) -> bytes:
    """The bytes of a small file of each kind."""
    path, arrays = tmp_path_factory.mktemp("whole") / "w", _arrays()
    if request.param == "safetensors":
        write_safetensors(path, _shapes(arrays), arrays.__getitem__, {"made": "here"})
    elif request.param == "torch":
        write_torch(path, _shapes(arrays), arrays.__getitem__)
    else:
        _save(path, _dict({"a": _tensor((4, 6), (6, 1))}), packed=True)
    return path.read_bytes()


def test_cut_files(whole, tmp_path):
    path = tmp_path / "w"
    lengths = {*range(0, len(whole), 41), *range(12), *range(len(whole) - 30, len(whole))}
    for length in sorted(lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="empty|neither|damaged|zip file"):
            open_tensors(path)
    path.write_bytes(whole + b"0")
    _try(path)


def test_changed_files(whole, tmp_path):
    path, draw = tmp_path / "w", np.random.default_rng(1)
    for _ in range(200):
        changed = bytearray(whole)
        for at in draw.integers(0, len(whole), draw.integers(1, 4)):
            changed[at] = draw.integers(256)
        path.write_bytes(changed)
        _try(path)


def test_changed_pickles(tmp_path):
    leaf, draw = _tensor((4, 6), (6, 1)), np.random.default_rng(2)
    content = _dict({"a": leaf, "b": b"](" + leaf + _atom([1, None, "x", (2.5, True)]) + b"e"})
    for _ in range(400):  # a zip of its own each time, whose checksums are right
        changed = bytearray(content)
        for at in draw.integers(0, len(content), draw.integers(1, 4)):
            changed[at] = draw.choice([draw.integers(256), *b"(trRbueahqQ0."])
        _try(_save(tmp_path / "w", bytes(changed)))


def _safetensors(path: Path, header, data: bytes, length=None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def _entry(shape=(2,), offsets=(0, 8), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header,size",
    [
        ({"a": _entry()}, 7),
        ({"a": _entry()}, 9),
        ({"a": _entry(), "b": _entry()}, 8),
        ({"a": _entry(), "b": _entry(offsets=(4, 12))}, 12),
        ({"a": _entry(), "b": _entry(offsets=(12, 20))}, 20),
        ({"a": _entry(offsets=(4, 12))}, 12),
        ({"a": _entry(offsets=(-8, 0))}, 8),
        ({"a": _entry(offsets=(8, 0))}, 8),
        ({"a": _entry(offsets=(0.0, 8.0))}, 8),
        ({"a": _entry(offsets=(0, 8, 9))}, 8),
        ({"a": _entry(shape=(-2,))}, 8),
        ({"a": _entry(shape=(-2, -1))}, 8),
        ({"a": _entry(shape=2)}, 8),
        ({"a": _entry(shape=(1 << 62, 0), offsets=(0, 0))}, 0),
        ({"a": _entry(shape=(1,) * 70 + (2,))}, 8),
        ({"a": _entry(dtype="F8_E4M3", offsets=(0, 2))}, 2),
        ({"a": _entry(dtype=4)}, 8),
        ({"a": {"dtype": "F32"}}, 8),
        ({"a": 3}, 8),
        ({"a": _entry(), "__metadata__": {"n": 1}}, 8),
        ({"a": _entry(), "__metadata__": "text"}, 8),
        (b'{"a":' + b"[" * 100_000, 8),
        (b"[1]     ", 0),
        (b"{       ", 0),
        (b'{"a":"\xff"}', 0),
    ],
)
def test_wrong_headers(tmp_path, header, size):
    with pytest.raises(UserError, match="damaged|neither|of the type"):
        open_tensors(_safetensors(tmp_path / "w", header, bytes(size)))


@pytest.mark.parametrize("length", [0, 1, 8, 70, 1 << 20, 99_999_999, 1 << 40, (1 << 64) - 1])
def test_wrong_header_lengths(tmp_path, length):
    with pytest.raises(UserError, match="damaged|neither"):
        open_tensors(_safetensors(tmp_path / "w", {"a": _entry()}, bytes(8), length))


def test_files_of_another_kind(tmp_path):
    old = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    cases = {"empty": b"", "torch.save it again": old, "neither": b"weights\n" * 9}
    for told, content in cases.items():
        (tmp_path / "w").write_bytes(content)
        with pytest.raises(UserError, match=told):
            open_tensors(tmp_path / "w")
    with pytest.raises(UserError, match="no weight file at"):
        open_tensors(tmp_path / "none")
    with pytest.raises(UserError, match="is a folder"):
        open_tensors(tmp_path)
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("data.txt", "text")
    with pytest.raises(UserError, match="zip file, but not"):
        open_tensors(tmp_path / "w")
    with pytest.raises(UserError, match="big-endian"):
        open_tensors(_save(tmp_path / "w", b"}", order=b"big"))


def test_a_file_that_goes_away(tmp_path):
    path = _save(tmp_path / "w", _dict({"a": _tensor((2,), (1,))}))
    tensor = open_tensors(path).tensors["a"]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="did it change"):
        tensor.read()
    path.unlink()
    with pytest.raises(UserError, match="did it change"):
        tensor.read()


# Writing


def test_safetensors_of_ours_and_theirs(tmp_path):
    arrays, path = _arrays(), tmp_path / "w.safetensors"
    write_safetensors(path, _shapes(arrays), arrays.__getitem__, {"made": "here", "ü": "\n"})
    _equal(path, arrays)
    assert open_tensors(path).metadata == {"made": "here", "ü": "\n"}
    assert struct.unpack("<Q", path.read_bytes()[:8])[0] % 8 == 0
    for name, array in load_file(path).items():
        assert array.dtype == arrays[name].dtype and array.tobytes() == arrays[name].tobytes()
    write_safetensors(
        tmp_path / "again", _shapes(arrays), arrays.__getitem__, {"made": "here", "ü": "\n"}
    )
    assert path.read_bytes() == (tmp_path / "again").read_bytes()
    theirs = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    theirs["zero.dim"] = arrays["zero.dim"]
    save_file(theirs, path, {"by": "them"})
    _equal(path, theirs)
    assert open_tensors(path).metadata == {"by": "them"}


@pytest.mark.parametrize("level", ["model_state_dict", None, ""])
def test_torch_files_of_ours(tmp_path, level):
    arrays, path = _arrays(), tmp_path / "w.pth"
    write_torch(path, _shapes(arrays), arrays.__getitem__, level)
    _equal(path, arrays, f"{level}." if level else "")
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        assert archive.testzip() is None
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            file.seek(entry.header_offset + 26)
            name, extra = struct.unpack("<HH", file.read(4))
            assert (entry.header_offset + 30 + name + extra) % 64 == 0
    before = path.read_bytes()
    write_torch(path, _shapes(arrays), arrays.__getitem__, level)
    assert path.read_bytes() == before


def _write(kind: str, path: Path, shapes: dict, read) -> None:
    if kind == "torch":
        write_torch(path, shapes, read)
    else:
        write_safetensors(path, shapes, read, {})


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
class TestWriters:
    """What both writers promise."""

    def test_no_tensors(self, tmp_path, kind):
        _write(kind, tmp_path / "w", {}, None)
        assert open_tensors(tmp_path / "w").tensors == {}

    def test_broken_promises(self, tmp_path, kind):
        path = tmp_path / "w"
        path.write_bytes(b"before")
        shapes = {"a": ((2, 3), np.dtype(np.float32)), "b": ((2,), np.dtype(np.int8))}
        zeros = {name: np.zeros(*promised) for name, promised in shapes.items()}
        for wrong in np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float16), np.float32(0):
            with pytest.raises(UserError, match="a should be float32 of shape"):
                _write(kind, path, shapes, (zeros | {"a": wrong}).__getitem__)
        with pytest.raises(UserError, match="x in .*w is of the type complex64"):
            _write(kind, path, {"x": ((1,), np.dtype(np.complex64))}, zeros.__getitem__)
        with pytest.raises(UserError, match="is of the type >f4"):
            _write(kind, path, {"x": ((1,), np.dtype(">f4"))}, zeros.__getitem__)
        assert path.read_bytes() == b"before" and [path] == list(tmp_path.iterdir())

    def test_a_disk_that_changes_what_is_written(self, tmp_path, kind, monkeypatch):
        arrays, true = _arrays(), _array
        monkeypatch.setattr(tensorfiles, "_array", lambda *args: true(*args) * 0)
        with pytest.raises(UserError, match="is not what was written"):
            _write(kind, tmp_path / "w", _shapes(arrays), arrays.__getitem__)
        assert not list(tmp_path.iterdir())

    def test_a_file_that_cannot_be_read_back(self, tmp_path, kind, monkeypatch):
        arrays = _arrays()
        monkeypatch.setattr(tensorfiles, "LARGEST_INDEX", 10)
        with pytest.raises(UserError, match="w cannot be read back"):
            _write(kind, tmp_path / "w", _shapes(arrays), arrays.__getitem__)
        assert not list(tmp_path.iterdir())

    def test_a_full_disk(self, tmp_path, kind):
        shapes = {"a": ((1 << 16,), np.dtype(np.float32))}
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(UserError, match="cannot write"):
                _write(kind, tmp_path / "w", shapes, lambda name: np.zeros(*shapes[name]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(tmp_path.iterdir())

    def test_memory_of_few_tensors(self, tmp_path, kind):
        shapes = {f"t{i:02}": ((1 << 20,), np.dtype(np.float32)) for i in range(16)}
        start, end = tmp_path / "start", tmp_path / "end"
        _write(kind, start, shapes, lambda name: np.full(1 << 20, int(name[1:]), np.float32))
        tracemalloc.start()
        tensors = open_tensors(start).tensors
        names = dict(zip(shapes, tensors, strict=True))
        _write(kind, end, shapes, lambda name: tensors[names[name]].read())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 4e6 < peak < 10e6  # a tensor has 4 MB, the file 64 MB
        assert start.read_bytes() == end.read_bytes()


def test_bfloat16_by_its_scalar_type(tmp_path):
    shapes = {"a": ([2], ml_dtypes.bfloat16)}
    write_safetensors(tmp_path / "w", shapes, lambda name: np.ones(2, ml_dtypes.bfloat16), {})
    write_torch(tmp_path / "v", shapes, lambda name: np.ones(2, ml_dtypes.bfloat16), None)
    for path in tmp_path / "w", tmp_path / "v":
        tensor = open_tensors(path).tensors["a"]
        assert tensor.dtype == ml_dtypes.bfloat16 and tensor.read().tolist() == [1, 1]


def test_a_reserved_name(tmp_path):
    with pytest.raises(UserError, match="no tensor can have the name"):
        shapes = {"__metadata__": ((1,), np.dtype(np.float32))}
        write_safetensors(tmp_path / "w", shapes, lambda name: np.zeros(1, np.float32), {})
