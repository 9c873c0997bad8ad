"""PyTorch checkpoints made by hand, byte by byte as torch.save writes them."""

import pickle
import zipfile

import numpy as np
from etils.epath import Path

ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
STORAGE_CLASSES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def pickled(value) -> bytes:
    """The pickle of a plain value, without the protocol before it and the stop behind it."""
    return pickle.dumps(value, 2)[2:-1]


def pickled_dict(items: dict) -> bytes:
    """A dict whose values are pickled already."""
    entries = [pickled(key) + value for key, value in items.items()]
    return b"}(" + b"".join(entries) + b"u"


def pickled_tensor(
    shape,
    strides,
    offset=0,
    *,
    key="0",
    length=24,
    storage_class="torch\nFloatStorage",
    dtype=None,
    metadata=None,
) -> bytes:
    """A tensor of a storage of `length` numbers; with a `dtype` as newer versions of torch do."""
    function = b"_rebuild_tensor_v2" if dtype is None else b"_rebuild_tensor_v3"
    storage = b"(" + pickled("storage") + f"c{storage_class}\n".encode()
    storage += pickled(key) + pickled("cpu") + pickled(length) + b"tQ"
    content = b"ctorch._utils\n" + function + b"\n(" + storage
    content += pickled(offset) + pickled(shape) + pickled(strides)
    content += b"\x89" + ORDERED_DICT  # no gradient, no hooks
    if dtype is not None:
        content += f"ctorch\n{dtype}\n".encode()
    if metadata is not None:
        content += pickled(metadata)
    return content + b"tR"


def write_archive(
    path: Path,
    content: bytes,
    storages: dict[str, bytes],
    *,
    byte_order=b"little",
    compressed=False,
) -> Path:
    """An archive with a pickle of this content."""
    compression = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("model/byteorder", byte_order)
        for key, data in storages.items():
            archive.writestr(f"model/data/{key}", data)
    return path


def write_state_dict(path: Path, arrays: dict[str, np.ndarray], level: str | None = None) -> Path:
    """A state_dict, or a dict that holds it under the key `level`."""
    items = b""
    storages = {}
    for index, (name, array) in enumerate(arrays.items()):
        contiguous = np.zeros(array.shape, array.dtype)  # of any shape, also without axes
        strides = tuple(stride // array.itemsize for stride in contiguous.strides)
        items += pickled(name) + pickled_tensor(
            array.shape,
            strides,
            key=str(index),
            length=array.size,
            storage_class=f"torch\n{STORAGE_CLASSES[array.dtype.name]}",
        )
        storages[str(index)] = array.tobytes()
    content = ORDERED_DICT + b"(" + items + b"u"
    if level is not None:
        content = b"}" + pickled(level) + content + b"s"
    return write_archive(path, content, storages)
