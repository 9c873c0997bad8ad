"""Weight files are read as they were written; damaged ones are reported in one line."""

import json
import pickle
import resource
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from etils.epath import Path
from helpers.mutations import mutations
from helpers.tensor_files import assert_holds
from helpers.torch_archive import pickled_dict, pickled_tensor, write_archive, write_state_dict
from safetensors.numpy import load_file, save_file

from urgt_jax.errors import UserError
from urgt_jax.weights import tensor_files
from urgt_jax.weights.tensor_files import open_tensors, write_safetensors
from urgt_jax.weights.tensors import DTYPES, Tensor, tensor_of


def example_arrays() -> dict[str, np.ndarray]:
    """One array of each dtype, and some of unusual shapes."""
    rng = np.random.default_rng(0)
    arrays = {f"of.{dtype}": (rng.random((3, 5)) * 100).astype(dtype) for dtype in DTYPES.values()}
    arrays["zero.dim"] = np.array(7.5, np.float32)
    arrays["empty"] = np.zeros((0, 4), np.float16)
    arrays["transposed"] = np.arange(24, dtype=np.int16).reshape(4, 6).T
    return arrays


def as_tensors(arrays: dict) -> dict[str, Tensor]:
    return {name: tensor_of(x) for name, x in arrays.items()}


# Reading


def test_open_tensors_reads_files_of_the_safetensors_library(tmp_path):
    arrays = {name: np.array(x, order="C") for name, x in example_arrays().items()}
    path = tmp_path / "w.safetensors"
    save_file(arrays, path, {"by": "library"})
    assert_holds(path, arrays)
    assert open_tensors(path).metadata == {"by": "library"}
    save_file(arrays, path)
    assert open_tensors(path).metadata == {}


def test_read_entry_is_one_entry_of_the_first_axis(tmp_path):
    arrays = {
        "floats": np.arange(24, dtype=np.float32).reshape(4, 2, 3),
        "bfloats": np.arange(6).astype(ml_dtypes.bfloat16).reshape(3, 2),
        "numbers": np.arange(3),
    }
    save_file(arrays, tmp_path / "w")
    for name, tensor in open_tensors(tmp_path / "w").tensors.items():
        for index, expected in enumerate(arrays[name]):
            entry = tensor.read_entry(index)
            assert (entry.shape, entry.dtype) == (expected.shape, expected.dtype)
            np.testing.assert_array_equal(entry, expected)


def read_all(path: Path) -> None:
    """Reads a file that may be damaged; anything but success or a UserError fails the test."""
    try:
        for tensor in open_tensors(path).tensors.values():
            assert tensor.read().shape == tensor.shape
    except UserError as error:
        assert str(error)


@pytest.fixture(scope="module", params=["safetensors", "torch", "compressed"])
def whole_file(request, tmp_path_factory) -> bytes:
    """The bytes of a small file of each kind."""
    path = Path(tmp_path_factory.mktemp("whole")) / "w"
    if request.param == "safetensors":
        write_safetensors(path, as_tensors(example_arrays()), {"key": "value"})
    elif request.param == "torch":
        write_state_dict(path, example_arrays(), "model_state_dict")
    else:
        numbers = np.arange(24, dtype=np.float32).tobytes()
        content = pickled_dict({"a": pickled_tensor((4, 6), (6, 1))})
        write_archive(path, content, {"0": numbers}, compressed=True)
    return path.read_bytes()


def test_open_tensors_reports_truncated_files(whole_file, tmp_path):
    path = tmp_path / "w"
    size = len(whole_file)
    lengths = {*range(0, size, 41), *range(12), *range(size - 30, size)}
    for length in sorted(lengths):
        path.write_bytes(whole_file[:length])
        with pytest.raises(UserError, match="empty|neither|damaged|zip file"):
            open_tensors(path)
    path.write_bytes(whole_file + b"0")
    read_all(path)


def test_open_tensors_survives_random_changes(whole_file, tmp_path):
    path = tmp_path / "w"
    rng = np.random.default_rng(1)
    for _ in range(200):
        changed = bytearray(whole_file)
        for position in rng.integers(0, len(whole_file), rng.integers(1, 4)):
            changed[position] = rng.integers(256)
        path.write_bytes(changed)
        read_all(path)


def write_raw(path: Path, header, data: bytes, length: int | None = None) -> Path:
    """A file with this header, as JSON or as bytes, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + text + data)
    return path


def entry(shape=(2,), offsets=(0, 8), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header,size",
    [
        ({"a": entry()}, 7),
        ({"a": entry()}, 9),
        ({"a": entry(), "b": entry()}, 8),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, 12),
        ({"a": entry(), "b": entry(offsets=(12, 20))}, 20),
        ({"a": entry(offsets=(4, 12))}, 12),
        ({"a": entry(offsets=(-8, 0))}, 8),
        ({"a": entry(offsets=(8, 0))}, 8),
        ({"a": entry(offsets=(0.0, 8.0))}, 8),
        ({"a": entry(offsets=(0, 8, 9))}, 8),
        ({"a": entry(shape=(-2,))}, 8),
        ({"a": entry(shape=(-2, -1))}, 8),
        ({"a": entry(shape=2)}, 8),
        ({"a": entry(shape=(1 << 62, 0), offsets=(0, 0))}, 0),
        ({"a": entry(shape=(1,) * 70 + (2,))}, 8),
        ({"a": entry(dtype="F8_E4M3", offsets=(0, 2))}, 2),
        ({"a": entry(dtype=4)}, 8),
        ({"a": {"dtype": "F32"}}, 8),
        ({"a": 3}, 8),
        ({"a": entry(), "__metadata__": {"n": 1}}, 8),
        ({"a": entry(), "__metadata__": "text"}, 8),
        (b'{"a":' + b"[" * 100_000, 8),
        (b"[1]     ", 0),
        (b"{       ", 0),
        (b'{"a":"\xff"}', 0),
    ],
)
def test_open_tensors_reports_wrong_headers(tmp_path, header, size):
    with pytest.raises(UserError, match="damaged|neither|has the type") as caught:
        open_tensors(write_raw(tmp_path / "w", header, bytes(size)))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("length", [0, 1, 8, 70, 1 << 20, 99_999_999, 1 << 40, (1 << 64) - 1])
def test_open_tensors_reports_wrong_header_lengths(tmp_path, length):
    with pytest.raises(UserError, match="damaged|neither"):
        open_tensors(write_raw(tmp_path / "w", {"a": entry()}, bytes(8), length))


@pytest.mark.parametrize(
    "content,message",
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "pointer of Git LFS",
        ),
        (
            "<!DOCTYPE html>\n<html><title>404 Not Found</title></html>\n",
            "is a web page, not the w",
        ),
        ("\n <HTML><body>Please log in</body></HTML>", "is a web page, not the weights"),
    ],
)
def test_open_tensors_names_what_was_downloaded_instead(tmp_path, content, message):
    (tmp_path / "w.pth").write_text(content)
    with pytest.raises(UserError, match="w.pth is a") as caught:
        open_tensors(tmp_path / "w.pth")
    assert message in str(caught.value)


def test_open_tensors_reports_files_of_another_kind(tmp_path):
    path = tmp_path / "w"
    before_1_6 = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    contents = {"empty": b"", "torch.save it again": before_1_6, "neither": b"weights\n" * 9}
    for message, content in contents.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            open_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.txt", "text")
    with pytest.raises(UserError, match="zip file, but torch.save did not write it"):
        open_tensors(path)
    with pytest.raises(UserError, match="no weight file at"):
        open_tensors(tmp_path / "none")
    with pytest.raises(UserError, match="is a folder"):
        open_tensors(tmp_path)


def test_read_reports_a_file_that_is_cut_while_it_is_open(tmp_path):
    path = tmp_path / "w"
    save_file({"a": np.zeros(100, np.float32)}, path)
    tensor = open_tensors(path).tensors["a"]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="Has the file changed"):
        tensor.read()


def test_open_tensors_does_not_read_an_absurd_header(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 99_000_000) + b"{" + b" " * 1000)
    with pytest.raises(UserError, match="its header has 99 MB"):
        open_tensors(path)


def test_no_change_of_a_file_goes_unnoticed(tmp_path):
    """A changed file is refused, or holds what it held: its padding may change."""
    arrays = example_arrays()
    path = tmp_path / "w.safetensors"
    write_safetensors(path, as_tensors(arrays), {"urgt_jax": json.dumps({"depth": 24})})
    written = open_tensors(path)
    content = path.read_bytes()
    noticed = 0
    for what, changed in mutations(content, 400):
        path.write_bytes(changed)
        try:
            file = open_tensors(path)
            read = {name: tensor.read() for name, tensor in file.tensors.items()}
        except UserError as error:
            assert "w.safetensors" in str(error) and len(str(error)) < 400, what
            noticed += 1
            continue
        same = file.metadata == written.metadata and set(read) == set(arrays)
        if not same:
            # Without our metadata it is a file of another program, which no refiner is read from.
            assert "urgt_jax" not in file.metadata, what
            continue
        for name, array in read.items():
            assert array.dtype == arrays[name].dtype and (array == arrays[name]).all(), what
    assert noticed > 300


# Writing


def test_write_safetensors_is_read_by_the_library_and_repeats_to_the_bit(tmp_path):
    arrays = example_arrays()
    path = tmp_path / "w.safetensors"
    metadata = {"key": "value", "ü": "\n"}
    write_safetensors(path, as_tensors(arrays), metadata)
    assert_holds(path, arrays)
    assert open_tensors(path).metadata == metadata
    assert struct.unpack("<Q", path.read_bytes()[:8])[0] % 8 == 0
    for name, array in load_file(path).items():
        assert array.dtype == arrays[name].dtype and array.tobytes() == arrays[name].tobytes()
    write_safetensors(tmp_path / "again", as_tensors(arrays), metadata)
    assert path.read_bytes() == (tmp_path / "again").read_bytes()


def test_write_safetensors_without_tensors(tmp_path):
    write_safetensors(tmp_path / "w", {}, {})
    assert open_tensors(tmp_path / "w").tensors == {}


def test_write_safetensors_checks_what_it_is_given(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(b"before")
    float32 = np.dtype(np.float32)
    for wrong in np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float16), np.float32(0):
        tensor = Tensor((2, 3), float32, lambda wrong=wrong: wrong)
        with pytest.raises(UserError, match="a should be float32 of shape"):
            write_safetensors(path, {"a": tensor}, {})
    for name in "complex64", ">f4":
        with pytest.raises(UserError, match=f"x in .*w has the type {name}"):
            write_safetensors(path, as_tensors({"x": np.zeros(1, name)}), {})
    with pytest.raises(UserError, match="__metadata__ is a reserved name"):
        write_safetensors(path, as_tensors({"__metadata__": np.zeros(1, np.float32)}), {})
    assert path.read_bytes() == b"before" and [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda content: content[:-1] + b"?", "is not what was written"),
        (lambda content: content[:-1], "w cannot be read back"),
    ],
)
def test_write_safetensors_notices_a_disk_that_loses_data(tmp_path, monkeypatch, damage, message):
    def open_damaged(path):
        path.write_bytes(damage(path.read_bytes()))
        return open_tensors(path)

    monkeypatch.setattr(tensor_files, "open_tensors", open_damaged)
    with pytest.raises(UserError, match=message):
        write_safetensors(tmp_path / "w", as_tensors({"a": np.zeros(5, np.float32)}), {})
    assert not list(tmp_path.iterdir())


def test_write_safetensors_leaves_nothing_on_a_full_disk(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write"):
            write_safetensors(tmp_path / "w", as_tensors({"a": np.zeros(1 << 16)}), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_copying_a_file_holds_few_tensors_in_memory(tmp_path, kind):
    source = tmp_path / "source"
    arrays = {f"t{i:02}": np.full(1 << 20, i, np.float32) for i in range(16)}
    if kind == "torch":
        write_state_dict(source, arrays)
    else:
        save_file(arrays, source)
    del arrays
    tracemalloc.start()
    write_safetensors(tmp_path / "copy", open_tensors(source).tensors, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 4e6 < peak < 10e6  # a tensor has 4 MB, the file 64 MB
    copy = load_file(tmp_path / "copy")
    assert all((copy[f"t{i:02}"] == i).all() for i in range(16))
