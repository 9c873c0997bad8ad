"""Converts UnrealStereo4K (SMD-Nets, CVPR 2021) into a TFDS data set of tiles."""

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from etils.epath import Path

from urgt_jax.data.unreal4k.records import INDEX, SKIPPED, TILES, Frame, frame_tiles
from urgt_jax.data.unreal4k.source_files import FrameFiles, default_splits, read_frame, read_splits
from urgt_jax.errors import (
    NegativeResult,
    UserError,
    check_skipped,
    import_extra,
    one_line,
    reason,
    require,
)
from urgt_jax.files import (
    find_paths,
    parse_json,
    read_json_object,
    seal,
    unseal,
    write_text,
)
from urgt_jax.folder_lock import FolderLock
from urgt_jax.progress import Progress
from urgt_jax.remote import require_local
from urgt_jax.workers import end_with_parent

tfds = import_extra("tensorflow_datasets", "data")

NAME = "unreal4k"
VERSION = "1.0.0"
DESCRIPTION = (
    "Stereo pairs of nine rendered scenes at 2160 x 3840 with disparity; left views, in tiles."
)
HOMEPAGE = "https://github.com/fabiotosi92/SMD-Nets"
FRAMES_PER_SHARD = 8  # about half a gigabyte
METADATA = ".metadata-"  # begins the name of the folder that TFDS writes into
PLAN = "job.json"  # identifies the frames that the folder was begun with
RECORD_OPTIONS = "group_size:1,uncompressed"  # of ArrayRecord: each record is read on its own
BYTES_PER_PIXEL = 7  # 3 of colour, 4 of disparity


class Shard(NamedTuple):
    """A file of frames to be written."""

    folder: str
    split: str
    number: int
    count: int  # number of shards in the split
    frames: tuple[FrameFiles, ...]

    @property
    def path(self) -> Path:
        """The file, with the name that TFDS expects."""
        part = f"{self.number:05}-of-{self.count:05}"
        return Path(self.folder) / f"{NAME}-{self.split}.array_record-{part}"

    @property
    def note(self) -> Path:
        """Says what the file holds and what was skipped. Written once the file is complete."""
        return self.path.with_name(f".{self.path.name}.json")

    def is_complete(self) -> bool:
        """Whether the file holds all its frames. Frames that were skipped are tried again."""
        try:
            note = unseal(parse_json(self.note.read_text()))
            return not note["skipped"] and self.path.stat().length == note["bytes"]
        except (OSError, ValueError, KeyError):
            return False


def prepare(
    source: Path,
    out: Path,
    splits: Path | None = None,
    workers: int = 1,
    max_skipped: int | None = None,
) -> dict[str, str]:
    """Prepares the data set in a folder and resumes there; returns the skipped frames and why.

    Fails if more than `max_skipped` frames are skipped.
    """
    for path in (source, out):
        require_local(path, "Prepare the data set locally, and copy it to the bucket then")
    require(source.is_dir(), f"{source} is not a folder. Pass the folder of the extracted scenes")
    frames = read_splits(splits or default_splits(source), source)
    with FolderLock(out, "--out"):
        check_plan(out, frames)
        shards = make_shards(out, frames)
        for part in find_paths(out, f".{NAME}-*.tmp"):  # left by a process that was killed
            part.unlink()
        for folder in find_paths(out, f"{METADATA}*"):
            shutil.rmtree(folder)
        missing = [shard for shard in shards if not shard.is_complete()]
        check_space(out, missing)
        if missing:
            # Frames that were skipped before get records now, which the old index would miscount.
            # Without an index, the folder cannot be read.
            (out / INDEX).unlink(missing_ok=True)
        write_shards(missing, shards, workers, max_skipped)
        return write_metadata(out, shards)


def check_plan(out: Path, frames: dict[str, list[FrameFiles]]) -> None:
    """Records which frames are prepared in a folder; fails if it was begun with others."""
    names = json.dumps({split: [files.name for files in frames[split]] for split in frames})
    digest = hashlib.sha256(names.encode()).hexdigest()
    plan = json.dumps({"frames": digest, "version": VERSION, "shard": FRAMES_PER_SHARD})
    path = out / PLAN
    require(
        not path.is_file() or path.read_bytes() == plan.encode(),
        f"{out} was begun with other split files. Choose another --out",
    )
    write_text(path, plan)


def make_shards(out: Path, frames: dict[str, list[FrameFiles]]) -> list[Shard]:
    """The files of all splits."""
    shards = []
    for split, files in frames.items():
        starts = range(0, len(files), FRAMES_PER_SHARD)
        for number, start in enumerate(starts):
            part = tuple(files[start : start + FRAMES_PER_SHARD])
            shards.append(Shard(str(out), split, number, len(starts), part))
    return shards


def check_space(out: Path, missing: list[Shard]) -> None:
    """Fails if the disk is too small, judging by the first frame that can be read."""
    frames = [files for shard in missing for files in shard.frames]
    for files in frames:
        try:
            disparity = np.load(files.path("Disp0", ".npy"), mmap_mode="r")
        except Exception:  # a damaged file, which `write_frames` reports
            continue
        needed = len(frames) * disparity.size * BYTES_PER_PIXEL
        free = shutil.disk_usage(out).free
        require(
            needed <= free,
            f"{out} needs {needed / 1e9:.1f} GB for {len(frames)} frames, but only "
            f"{free / 1e9:.1f} GB are free. Pass --out on a larger disk",
        )
        return


def write_shards(
    missing: list[Shard], shards: list[Shard], workers: int, max_skipped: int | None = None
) -> None:
    """Writes the missing ones among all shards, in worker processes if there are several."""
    skipped = {}
    total = sum(len(shard.frames) for shard in shards)
    done = total - sum(len(shard.frames) for shard in missing)
    if done:
        print(f"{done} of {total} frames are already prepared")
    progress = Progress("frames", total, done)
    if workers <= 1:
        for shard in missing:
            skipped |= write_shard(shard)
            check_frames(skipped, max_skipped)
            done += len(shard.frames)
            progress.update(done)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool:
        running = {pool.submit(write_shard, shard): shard for shard in missing}
        try:
            for future in as_completed(running):
                skipped |= future.result()
                check_frames(skipped, max_skipped)
                done += len(running[future].frames)
                progress.update(done)
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, probably for lack of memory. Lower --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def check_frames(skipped: dict[str, str], max_skipped: int | None) -> None:
    """Fails if too many frames were skipped."""
    if skipped:
        name = list(skipped)[-1]
        check_skipped(len(skipped), max_skipped, f"{name}: {skipped[name]}")


def write_shard(shard: Shard) -> dict[str, str]:
    """Writes one file of frames, completely or not at all, and the note beside it.

    Returns the skipped frames and why.
    """
    # Not `files.atomic_write`: ArrayRecord opens the file by its name.
    part = shard.path.with_name(f".{shard.path.name}.{secrets.token_hex(4)}.tmp")
    try:
        frames, skipped = write_frames(part, shard.frames)
        note = {"frames": frames, "skipped": skipped, "bytes": part.stat().length}
        os.replace(part, shard.path)
    except RuntimeError as error:  # raised by ArrayRecord if the disk is full
        raise UserError(f"cannot write {shard.path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    write_text(shard.note, json.dumps(seal(note)))
    return skipped


def write_frames(path: Path, frames: tuple[FrameFiles, ...]) -> tuple[list, dict[str, str]]:
    """Name and size of each frame that was written, and why others were skipped."""
    written = []
    skipped = {}
    writer = ArrayRecordWriter(str(path), RECORD_OPTIONS)
    for files in frames:
        try:
            frame = read_frame(files)
        except Exception as error:  # a damaged file raises many kinds of error
            skipped[files.name] = reason(error)
            continue
        for record in serialize_tiles(frame):
            writer.write(record)
        written.append((frame.name, frame.disparity.shape))
    writer.close()
    return written, skipped


def serialize_tiles(frame: Frame) -> Iterator[bytes]:
    """The records of a frame, with the same bytes in every process."""
    from tensorflow_datasets.proto import tf_example_pb2

    features = tile_features()
    for tile in frame_tiles(frame):
        # Protocol buffers write a map in an order that differs from process to process.
        example = tf_example_pb2.Example.FromString(features.serialize_example(tile))
        yield example.SerializeToString(deterministic=True)


def tile_features() -> "tfds.features.FeaturesDict":
    """The features of a record, for TFDS. The calibration of a frame is in each of its tiles."""
    raw = tfds.features.Encoding.BYTES
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(shape=(None, None, 3), dtype=np.uint8, encoding=raw),
            "disparity": tfds.features.Tensor(shape=(None, None), dtype=np.float32, encoding=raw),
            "intrinsics": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "baseline": tfds.features.Scalar(np.float32),
            "frame": tfds.features.Text(),
            "tile": tfds.features.Scalar(np.int32),
        }
    )


def write_metadata(out: Path, shards: list[Shard]) -> dict[str, str]:
    """Writes the index, the list of skipped frames and what TFDS needs; returns what it skipped."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=out, dataset_name=NAME, filetype_suffix="array_record"
    )
    by_split: dict[str, list[Shard]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard)
    index = {}
    skipped = {}
    split_infos = []
    for split, own in by_split.items():
        notes = [unseal(read_json_object(shard.note)) for shard in own]
        index[split] = [frame for note in notes for frame in note["frames"]]
        for note in notes:
            for name, problem in note["skipped"].items():
                skipped[f"{split} {name}"] = problem
        split_infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[TILES * len(note["frames"]) for note in notes],
                num_bytes=sum(shard.path.stat().length for shard in own),
                filename_template=template.replace(split=split),
            )
        )
    lines = [one_line(f"{name}: {problem}") + "\n" for name, problem in skipped.items()]
    write_text(out / SKIPPED, "".join(lines))
    if not any(index.values()):
        raise NegativeResult(
            f"none of {len(skipped)} frames could be read. {out / SKIPPED} lists the reasons"
        )
    # TFDS writes its files in place: elsewhere first, so that they are complete or absent.
    with tempfile.TemporaryDirectory(prefix=METADATA, dir=out) as folder:
        stand_ins = [Path(folder) / shard.path.name for shard in shards]
        for path in stand_ins:
            path.touch()  # TFDS looks at the names of the records there
        tfds.folder_dataset.write_metadata(
            data_dir=folder,
            features=tile_features(),
            split_infos=split_infos,
            filename_template=template,
            version=VERSION,
            check_data=False,
            description=DESCRIPTION,
            homepage=HOMEPAGE,
            disable_shuffling=True,
        )
        for path in set(Path(folder).iterdir()) - set(stand_ins):
            os.replace(path, out / path.name)
    write_text(out / INDEX, json.dumps(seal(index)) + "\n")
    return skipped


class LocalInfo(tfds.core.DatasetInfo):
    """The description of a data set that is in no public bucket.

    TFDS would look there for every new builder, and leave an empty folder in the temporary one.
    """

    def initialize_from_bucket(self) -> None:
        """Nothing to read."""


class Unreal4kBuilder(tfds.core.GeneratorBasedBuilder):
    """The builder for TFDS. manual_dir is the folder of extracted scenes, with the split files."""

    name = NAME
    VERSION = tfds.core.Version(VERSION)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Extract the scenes 00000 to 00008 into this folder, beside the split files."
    )

    def __init__(self, *, file_format: str | None = "array_record", **options):
        super().__init__(file_format=file_format, **options)

    def _info(self):
        return LocalInfo(
            builder=self,
            description=DESCRIPTION,
            features=tile_features(),
            homepage=HOMEPAGE,
            disable_shuffling=True,
        )

    def download_and_prepare(self, *, download_dir=None, download_config=None, **options) -> None:
        """Prepares from `download_config.manual_dir`, as `urgt prepare unreal4k` does."""
        manual_dir = getattr(download_config, "manual_dir", None)
        require(
            manual_dir is not None,
            "unreal4k is not downloaded. Pass DownloadConfig(manual_dir=FOLDER) as download_config",
        )
        prepare(Path(manual_dir), Path(self.data_path))
        self.info.read_from_directory(self.data_path)

    # TFDS requires the next two methods. Its own download_and_prepare would call them.
    def _split_generators(self, dl_manager):
        raise NotImplementedError

    def _generate_examples(self):
        raise NotImplementedError
