"""Files that were made to do harm: nothing may run, and each is refused soon and in little memory.

Every file is read in a child of its own, whose time and memory are measured.
"""

import io
import json
import os
import pickle
import resource
import struct
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from etils.epath import Path
from helpers.png import png
from helpers.torch_archive import write_archive

from urgt_jax.config import Config
from urgt_jax.config_files import from_json
from urgt_jax.data.priors.stored import StoredPriors
from urgt_jax.data.sets.folder import read_json_calibration
from urgt_jax.data.unreal4k.records import open_tiles, read_index
from urgt_jax.errors import UserError
from urgt_jax.evaluation.resume import ScoreJournal
from urgt_jax.files import read_text, seal
from urgt_jax.images.depth_formats import open_npy, open_pfm, read_hdf5, read_mat, read_png16
from urgt_jax.images.files import image_size, read_image, read_map
from urgt_jax.images.map_files import read_map_file
from urgt_jax.training.log import MetricsLog
from urgt_jax.weights.tensor_files import open_tensors
from urgt_jax.weights.weight_file import read_config

MAX_SECONDS = 2.0
MAX_BYTES = 500e6  # above the size of the file
MATLAB_START = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
CANARY = "CANARY"  # a file that only code from the data could make


class Case(NamedTuple):
    """A hostile file, and how the program reads it."""

    name: str
    file: str
    content: bytes
    read: Callable[[Path], object]


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def pickles(canary: str) -> dict[str, bytes]:
    """Pickles, without protocol and end, that would run something or take much."""
    touch = f"touch {canary}"
    code = f"open({canary!r}, 'w')"
    calls = {
        "os.system": Call(os.system, touch),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "open": Call(open, canary, "w"),
        "import": Call(__import__, "antigravity"),
        "os.mkdir": Call(os.mkdir, canary),
        "os.popen": Call(os.popen, touch),
        "compile": Call(compile, code, "x", "exec"),
        "nested": {"state_dict": {"a": [Call(os.system, touch)]}},
    }
    found = {name: pickle.dumps(value, 2)[2:-1] for name, value in calls.items()}
    found["inst"] = f"(S'{touch}'\nios\nsystem\n".encode()
    found["obj"] = b"(cos\nsystem\nS'" + touch.encode() + b"'\no"
    argument = b"\x8c" + bytes([len(touch)]) + touch.encode()
    found["stack global"] = b"\x8c\x02os\x8c\x06system\x93" + argument + b"\x85R"
    found["numpy object"] = pickle.dumps(np.array([Call(os.system, touch)]), 2)[2:-1]
    found["marks"] = b"(" * 30_000_000
    found["tuples"] = b"(" * 100_000 + b"t" * 100_000
    found["duplicates"] = b"]" + b"2" * 20_000_000
    found["long"] = b"\x8b" + struct.pack("<i", 2**31 - 1)
    found["text"] = b"\x8d" + struct.pack("<Q", 2**60)
    found["frame"] = b"\x95" + struct.pack("<Q", 2**62)
    found["memo"] = b"Nr" + struct.pack("<I", 2**32 - 1)
    found["list bomb"] = b"](" + b"]" * 1_000_000 + b"e"
    return found


def read_tensors(path: Path) -> object:
    """Everything in a file of tensors."""
    return [tensor.read().shape for tensor in open_tensors(path).tensors.values()]


def weight_cases(folder: Path) -> Iterator[Case]:
    """PyTorch files and safetensors."""
    for name, content in pickles(str(folder / CANARY)).items():
        archive = write_archive(folder / "made", content, {}, compressed=True).read_bytes()
        yield Case(f"pickle in .pth: {name}", "a.pth", archive, read_tensors)
        yield Case(f"plain pickle: {name}", "a.pt", b"\x80\x02" + content + b".", read_tensors)
    zeros = zip_of({"model/data.pkl": b"\x80\x02}.", "model/data/0": bytes(200_000_000)})
    yield Case("zip bomb", "a.pth", zeros, read_tensors)
    many = zip_of({f"model/data/{number}": b"" for number in range(50_000)})
    yield Case("50000 entries", "a.pth", many, read_tensors)
    for name in ("../../x", "/etc/passwd", "model/\x1b[2Jdata.pkl"):
        yield Case(f"entry {name!r}", "a.pth", zip_of({name: b"x"}), read_tensors)
    for name, content in headers().items():
        yield Case(f"safetensors: {name}", "a.safetensors", content, read_tensors)
        yield Case(f"weights: {name}", "b.safetensors", content, read_weights)


def read_weights(path: Path) -> object:
    """The configuration in a weight file."""
    return read_config(open_tensors(path), path)


def zip_of(entries: dict[str, bytes]) -> bytes:
    """An archive, compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def headers() -> dict[str, bytes]:
    """Files of tensors whose headers say what is not so."""
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    shapes = {
        "no shape": {"a": {**tensor, "shape": None}},
        "huge shape": {"a": {**tensor, "shape": [2**40, 2**40]}},
        "negative shape": {"a": {**tensor, "shape": [-2]}},
        "huge offsets": {"a": {**tensor, "data_offsets": [0, 2**62]}},
        "negative offsets": {"a": {**tensor, "data_offsets": [-8, 0]}},
        "backward offsets": {"a": {**tensor, "data_offsets": [8, 0]}},
        "overlap": {"a": tensor, "b": tensor},
        "dtype": {"a": {**tensor, "dtype": "\x1b[31mOBJECT"}},
        "name": {"\x1b]0;title\x07\n../x": {**tensor, "dtype": "X"}},
        "metadata": {"__metadata__": {"urgt_jax": "[" * 100_000}, "a": tensor},
        "kind": {"__metadata__": {"urgt_jax": '{"kind": "__class__"}'}, "a": tensor},
    }
    found = {}
    for name, header in shapes.items():
        text = json.dumps(header).encode()
        found[name] = struct.pack("<Q", len(text)) + text + bytes(8)
    found["length"] = struct.pack("<Q", 2**63) + b"{}"
    found["blank header"] = struct.pack("<Q", 99_000_000) + b" " * 99_000_000
    found["deep"] = struct.pack("<Q", 1_000_000) + b'{"a":' * 200_000
    return found


def image_cases(folder: Path) -> Iterator[Case]:
    """Images that are programs, or much larger than their files."""
    canary = folder / CANARY
    script = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({canary}) (w) file\n".encode()
    contents = {
        "EPS": script,
        "PDF": b"%PDF-1.7\n",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
        "XBM": b"#define w 65000\n#define h 65000\nstatic char b[] = {0x00};",
        "GIF": b"GIF89a" + b"\xff" * 40,
        "huge PNG": png(2**15, 2**15),
        "larger PNG": png(2**31 - 1, 2**31 - 1),
        "empty PNG": png(0, 0),
        "wide PNG": png(1, 2**28),
        "text bomb PNG": png(16, 16, [(b"zTXt", b"a\0\0" + zlib.compress(bytes(300_000_000)))]),
        "profile bomb PNG": png(16, 16, [(b"iCCP", b"a\0\0" + zlib.compress(bytes(300_000_000)))]),
        "pixel bomb PNG": png(16, 16, [(b"IDAT", zlib.compress(bytes(300_000_000)))]),
        "chunks PNG": png(16, 16, [(b"tEXt", b"a\0b")] * 100_000),
        "TIFF loop": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
        "TIFF": b"II*\0\x08\0\0\0" + b"\xff" * 200,
        "BMP": b"BM" + b"\xff" * 60,
        "WebP": b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 40,
        "JPEG": b"\xff\xd8\xff\xe0" + b"\xff" * 100,
    }
    for name, content in contents.items():
        yield Case(f"{name} as image", "a.png", content, read_image)
        yield Case(f"{name}: size", "a.jpg", content, image_size)
    yield Case("EPS as depth", "a.png", script, read_png16)


def map_cases(folder: Path) -> Iterator[Case]:
    """Maps that run code, or declare more than they hold."""
    touch = Call(os.system, f"touch {folder / CANARY}")
    file = io.BytesIO()
    np.save(file, np.array([touch, None], object), allow_pickle=True)
    contents = {"object": file.getvalue(), "pickle": pickle.dumps(touch)}
    descriptions = {
        "huge": "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1048576)}",
        "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}",
        "code": f"__import__('os').system('touch {folder / CANARY}')",
        "text": "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (9,)}",
        "deep": "(" * 9000,
    }
    for name, text in descriptions.items():
        header = text.encode() + b"\n"
        contents[name] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    contents["header"] = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1)
    archive = io.BytesIO()
    np.savez_compressed(archive, np.zeros(10_000_000))
    contents["archive"] = archive.getvalue()
    for name, content in contents.items():
        yield Case(f"npy: {name}", "a.npy", content, open_npy)
        yield Case(f"map: {name}", "a.npy", content, read_any_map)
    texts = ["99999999 99999999\n-1\n", "-4 4\n-1\n", "4 4\nnan\n", "4 4\n1e999\n", "9" * 900]
    for text in texts:
        yield Case(f"PFM {text[:20]!r}", "a.pfm", b"Pf\n" + text.encode() + bytes(64), open_pfm)


def read_any_map(path: Path) -> object:
    """A saved map."""
    return read_map(path, "map").shape


def container_cases(folder: Path) -> Iterator[Case]:
    """Maps in files of several arrays, channels or types."""
    touch = Call(os.system, f"touch {folder / CANARY}")
    npy = io.BytesIO()
    np.save(npy, np.array([[touch, None]], object), allow_pickle=True)
    archives = {
        "object": {"depth.npy": npy.getvalue()},
        "object as unit": {"depth.npy": one_pixel_map(), "unit.npy": npy.getvalue()},
        "declared": {"depth.npy": npy_header((2**20, 2**20)) + bytes(64)},
        "pickle": {"depth.npy": pickle.dumps(touch)},
        "outside": {"../../depth.npy": one_pixel_map()},
        "escape": {"\x1b[2J.npy": one_pixel_map(), "b.npy": one_pixel_map()},
        "many": {f"{number}.npy": b"" for number in range(10_000)},
        "empty": {},
    }
    for name, entries in archives.items():
        yield Case(f"npz: {name}", "a.npz", zip_of(entries), read_depth_file)
    for name, content in exr_files(folder).items():
        yield Case(f"EXR: {name}", "a.exr", content, read_depth_file)
    for name, content in tiff_files(folder).items():
        for read in (read_depth_file, read_image, image_size):
            yield Case(f"TIFF, {name}: {read.__name__}", "a.tif", content, read)
    for name, content in {"huge": png(2**14, 2**14), "text": meaning_png("[" * 100_000)}.items():
        yield Case(f"PNG map: {name}", "a.png", content, read_depth_file)
    for name, content in hdf5_files(folder).items():
        for part in (None, 0):
            read = partial(read_hdf5, name="depth", part=part)
            yield Case(f"HDF5: {name}, part {part}", "a.h5", content, read)
    packed = zlib.compress(struct.pack("<II", 15, 40) * 9)
    contents = {
        "length": MATLAB_START + struct.pack("<II", 14, 2**32 - 1) + bytes(64),
        "noise": MATLAB_START + bytes(range(256)) * 8,
        "nested": MATLAB_START + struct.pack("<II", 15, len(packed)) + packed,
        "empty": b"",
    }
    for name, content in contents.items():
        yield Case(f"MAT: {name}", "a.mat", content, read_mat)


def bomb_cases(folder: Path) -> Iterator[Case]:
    """Small files of enormous maps. They take seconds to make."""
    zeros = npy_header((10_000, 15_000)) + bytes(600_000_000)
    yield Case("npz of zeros", "a.npz", zip_of({"depth.npy": zeros}), read_depth_file)
    packed = zlib.compress(zeros)
    content = MATLAB_START + struct.pack("<II", 15, len(packed)) + packed
    yield Case("MAT of zeros", "a.mat", content, read_mat)
    for name, content in exr_files(folder, (10_000, 15_000)).items():
        yield Case(f"large EXR: {name}", "a.exr", content, read_depth_file)
    for name, content in tiff_files(folder, (7000, 8000)).items():
        for read in (read_depth_file, read_image, image_size):
            yield Case(f"large TIFF, {name}: {read.__name__}", "a.tif", content, read)


def read_depth_file(path: Path) -> object:
    """A depth map as people have them."""
    return read_map_file(path, "depth").values.shape


def npy_header(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    """The start of a .npy file."""
    file = io.BytesIO()
    description = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)
    return file.getvalue()


def one_pixel_map() -> bytes:
    """A .npy file of a small map."""
    return npy_header((2, 2)) + bytes(16)


def exr_files(folder: Path, size: tuple[int, int] = (50, 60)) -> dict[str, bytes]:
    """OpenEXR files of zeros, whole and damaged; none without the package."""
    try:
        import OpenEXR
    except ImportError:
        return {}
    path = folder / "made.exr"
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {"Z": np.zeros(size, np.float32)}).write(str(path))
    content = path.read_bytes()
    path.unlink()
    window = struct.pack("<4i", 0, 0, size[1] - 1, size[0] - 1)
    assert content.count(window) == 2  # of the data, and of the display
    return {
        "whole": content,
        "cut": content[: len(content) // 2],
        "huge": content.replace(window, struct.pack("<4i", 0, 0, 2**30, 2**30)),
        "negative": content.replace(window, struct.pack("<4i", 5, 5, -9, -9)),
        "noise": content[:8] + bytes(range(256)) * 8,
        "channel": content.replace(b"Z\0", b"\x1b\0"),
    }


def tiff_files(folder: Path, size: tuple[int, int] = (50, 60)) -> dict[str, bytes]:
    """TIFF files of colours that are floats, whole and damaged. Pillow does not read these."""
    path = folder / "made.tif"
    deflate = (cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_ADOBE_DEFLATE)
    cv2.imwrite(str(path), np.zeros((*size, 3), np.float32), deflate)
    content = path.read_bytes()
    path.unlink()
    width, large = (
        struct.pack("<HHIHH", 256, 3, 1, size[1], 0),
        struct.pack("<HHII", 256, 4, 1, 2**30),
    )
    assert content.count(width) == 1
    return {
        "whole": content,
        "declared": content.replace(width, large),
        "cut": content[: len(content) // 2],
    }


def meaning_png(text: str) -> bytes:
    """A PNG map whose numbers have this meaning."""
    return png(16, 16, [(b"tEXt", b"urgt_jax\0" + text.encode())])


def hdf5_files(folder: Path) -> dict[str, bytes]:
    """HDF5 files; none without the package."""
    try:
        import h5py
    except ImportError:
        return {}
    path = folder / "made.h5"
    made = {}

    def keep(name: str) -> None:
        made[name] = path.read_bytes()

    shape = (1, 20_000, 20_000)
    with h5py.File(path, "w") as file:  # declares 1.6 GB and stores nothing
        file.create_dataset("depth", shape, "f4", chunks=(1, 2000, 2000), compression="gzip")
    keep("declared")
    with h5py.File(path, "w") as file:
        file["depth"] = h5py.ExternalLink("/etc/passwd", "/")
    keep("link")
    with h5py.File(path, "w") as file:
        file["depth"] = h5py.SoftLink("/depth")
    keep("loop")
    with h5py.File(path, "w") as file:
        file.create_dataset("depth", (64,), "u1", external=[("/etc/passwd", 0, 64)])
    keep("external")
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "depth", data=np.array(["a" * 100] * 9, object), dtype=h5py.string_dtype()
        )
    keep("text")
    path.unlink()
    made["cut"] = made["declared"][:700]
    made["noise"] = made["declared"][:64] + bytes(range(256)) * 8
    return made


def text_cases(folder: Path) -> Iterator[Case]:
    """JSON that is deep, long, or another thing than expected."""
    module = {"pythonClassName": "antigravity.X", "featuresDict": {}}
    contents = {
        "deep": b"[" * 200_000,
        "deep object": b'{"a":' * 200_000,
        "digits": b'{"step": ' + b"9" * 100_000 + b"}",
        "infinity": b'{"step": 1e999, "size": [1e999, 2]}',
        "list": b"[1, 2]",
        "null": b"null",
        "bytes": b"\xff\xfe\x00",
        "long": b'"' + b"a" * 50_000_000 + b'"',
        "module": json.dumps(module).encode(),
        "name": json.dumps(seal({"train": [["../../etc/passwd", [9, 9]]]})).encode(),
        "escape": json.dumps(seal({"\x1b[2J": [["\x1b]0;x\x07", [9, 9]]]})).encode(),
    }
    readers = {
        "dataset.json": read_json_calibration,
        "priors.json": lambda path: StoredPriors(path.parent),
        "frames.json": lambda path: read_index(path.parent, "train"),
        "scored.jsonl": lambda path: ScoreJournal(path.parent, {"program": "x"}),
        "metrics.jsonl": lambda path: MetricsLog(path.parent, 9).close(),
        "config.json": lambda path: from_json(Config, read_text(path, "run"), str(path)),
        "features.json": open_features,
    }
    for name, content in contents.items():
        for file, read in readers.items():
            yield Case(f"{file}: {name}", file, content, read)


def open_features(path: Path) -> object:
    """The records of a prepared data set."""
    return open_tiles(path.parent, "train")


def cases(folder: Path, bombs: bool = True) -> Iterator[Case]:
    """All cases; their code would make a file in the folder."""
    yield from weight_cases(folder)
    yield from image_cases(folder)
    yield from map_cases(folder)
    yield from container_cases(folder)
    if bombs:
        yield from bomb_cases(folder)
    yield from text_cases(folder)


def try_case(case: Case, folder: Path) -> str:
    """What is wrong with how the program takes the file; empty if nothing is."""
    path = folder / case.file
    path.write_bytes(case.content)
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        os.write(sender, _report(case, path).encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    path.unlink(missing_ok=True)
    if status != 0:
        return f"the process ended with {status}"
    if (folder / CANARY).exists():
        return "code was run"
    return text


def _report(case: Case, path: Path) -> str:
    """In the child: read the file, and say what is wrong."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
    before = peak_bytes()
    start = time.process_time()
    problem = ""
    try:
        case.read(path)
    except UserError as error:
        if "\n" in str(error) or "\x1b" in str(error):
            problem = f"not one clean line: {str(error)[:200]!r}"
    except Exception:
        problem = traceback.format_exc()[-300:]
    seconds = time.process_time() - start
    grown = peak_bytes() - before - len(case.content)
    if seconds > MAX_SECONDS:
        problem += f" {seconds:.1f} s of the processor"
    if grown > MAX_BYTES:
        problem += f" {grown / 1e6:.0f} MB"
    return problem


def peak_bytes() -> float:
    """The most memory that this process has used."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise ValueError("this is not Linux")


def run(folder: Path, limit: int | None = None) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Rows for the table, and what went wrong."""
    problems = []
    count = 0
    for case in cases(folder):
        if limit is not None and count >= limit:
            break
        count += 1
        problem = try_case(case, folder)
        if problem:
            problems.append(f"{case.name}: {problem}")
    text = f"{count - len(problems)} rejected or harmless, {len(problems)} not"
    return [("hostile files", str(count), text)], problems
