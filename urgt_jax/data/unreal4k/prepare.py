"""Prepares UnrealStereo4K (SMD-Nets, CVPR 2021) as a TFDS data set of tiles."""

import hashlib
import json
import os
import secrets
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from urgt_jax.data.unreal4k import records
from urgt_jax.data.unreal4k.records import INDEX, OPTIONS, SKIPPED, TILES
from urgt_jax.data.unreal4k.source_files import FrameFiles, read_frame, read_splits
from urgt_jax.errors import UserError
from urgt_jax.files import make_folder, write_text
from urgt_jax.progress import Progress

NAME, VERSION = "unreal4k", "1.0.0"
SHARD = 8  # frames in a file, half a gigabyte
JOB = "job.json"
ABOUT = "Stereo pairs of nine rendered scenes at 2160 x 3840 with disparity; left views, in tiles."
HOMEPAGE = "https://github.com/fabiotosi92/SMD-Nets"


class Job(NamedTuple):
    """A file of frames to be written."""

    out: str
    split: str
    number: int
    count: int
    frames: tuple[FrameFiles, ...]

    @property
    def path(self) -> Path:
        """The file, named as TFDS has it."""
        place = f"{self.number:05}-of-{self.count:05}"
        return Path(self.out) / f"{NAME}-{self.split}.array_record-{place}"

    @property
    def note(self) -> Path:
        """What is in the file and what was skipped; written once the file is whole."""
        return self.path.with_name(f".{self.path.name}.json")


def write_shard(job: Job) -> dict:
    """Writes one file of frames, whole or not at all; returns what is in it and what is not."""
    part = job.path.with_name(f".{job.path.name}.{secrets.token_hex(4)}.tmp")
    try:
        frames, skipped = _write_frames(part, job.frames)
        told = {"frames": frames, "skipped": skipped, "bytes": part.stat().st_size}
        os.replace(part, job.path)
    except RuntimeError as error:  # of ArrayRecord, where the disk is full
        raise UserError(f"cannot write {job.path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    write_text(job.note, json.dumps(told))
    return told


def _write_frames(path: Path, places: tuple[FrameFiles, ...]) -> tuple[list, dict[str, str]]:
    """Names and sizes of the frames that were written, and why others were not."""
    frames, skipped = [], {}
    writer = ArrayRecordWriter(str(path), OPTIONS)
    for place in places:
        try:
            frame = read_frame(place)
        except Exception as error:  # whatever a damaged file makes the libraries raise
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            skipped[place.name] = " ".join(f"{kind}{error}".split())
            continue
        for record in records.serialized(frame):
            writer.write(record)
        frames.append((frame.name, frame.disparity.shape))
    writer.close()
    return frames, skipped


def prepare(
    source: Path, out: Path, splits: Path | None = None, workers: int = 1
) -> dict[str, str]:
    """Prepares the data set in a folder, going on where it stopped; returns what was skipped."""
    if not source.is_dir():
        raise UserError(f"no folder at {source}: --source is where the scenes were extracted")
    found = read_splits(splits or _default_splits(source), source)
    jobs = _jobs(found, make_folder(out))
    for part in out.glob(f".{NAME}-*.tmp"):  # of a job that was killed
        part.unlink()
    missing = [job for job in jobs if not _whole(job)]
    _check_space(out, missing)
    _write_all(missing, jobs, workers)
    return _finish(out, jobs)


def _whole(job: Job) -> bool:
    """Whether a file is there with all its frames; those that were skipped are tried again."""
    try:
        note = json.loads(job.note.read_text())
        return not note["skipped"] and job.path.stat().st_size == note["bytes"]
    except (OSError, ValueError, KeyError):
        return False


def _default_splits(source: Path) -> Path:
    return next((d for d in (source / "splits", source / "filenames") if d.is_dir()), source)


def _jobs(found: dict[str, list[FrameFiles]], out: Path) -> list[Job]:
    """The files of all splits; fails if the folder was begun with other frames."""
    text = json.dumps({s: [p.name for p in places] for s, places in found.items()})
    job = {"frames": hashlib.sha256(text.encode()).hexdigest(), "version": VERSION, "shard": SHARD}
    path = out / JOB
    if path.is_file() and path.read_text() != json.dumps(job):
        raise UserError(f"{out} was begun with other split files: choose another --out")
    write_text(path, json.dumps(job))
    jobs = []
    for split, places in found.items():
        parts = [tuple(places[i : i + SHARD]) for i in range(0, len(places), SHARD)]
        jobs += [Job(str(out), split, i, len(parts), part) for i, part in enumerate(parts)]
    return jobs


def _check_space(out: Path, missing: list[Job]) -> None:
    """Fails at once where the disk is too small, going by the first frame that can be read."""
    count = sum(len(job.frames) for job in missing)
    for place in (p for job in missing for p in job.frames):
        try:
            pixels = np.load(place.file("Disp0", ".npy"), mmap_mode="r").size
        except Exception:  # a damaged file, which `_write_frames` tells of
            continue
        need, free = count * pixels * 7, shutil.disk_usage(out).free  # 3 bytes and a float a pixel
        if need > free:
            raise UserError(
                f"{out} needs {need / 1e9:.1f} GB for {count} frames, but {free / 1e9:.1f} GB are "
                "free: give --out on a larger disk"
            )
        return


def _write_all(missing: list[Job], jobs: list[Job], workers: int) -> None:
    total = sum(len(job.frames) for job in jobs)
    done = total - sum(len(job.frames) for job in missing)
    if done:
        print(f"{done} of {total} frames are there already")
    progress = Progress("frames", total, done)
    if workers <= 1:
        for job in missing:
            write_shard(job)
            done += len(job.frames)
            progress.update(done)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(write_shard, job): job for job in missing}
        try:
            for future in as_completed(running):
                future.result()
                done += len(running[future].frames)
                progress.update(done)
        except BrokenProcessPool as error:
            raise UserError("a worker was killed, for lack of memory? fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _finish(out: Path, jobs: list[Job]) -> dict[str, str]:
    """Writes the index, the list of what was skipped, and what TFDS needs."""
    index: dict[str, list] = {}
    skipped, infos = {}, []
    template = tfds.core.ShardedFileTemplate(
        data_dir=out, dataset_name=NAME, filetype_suffix="array_record"
    )
    for split in dict.fromkeys(job.split for job in jobs):
        mine = [job for job in jobs if job.split == split]
        notes = [json.loads(job.note.read_text()) for job in mine]
        index[split] = [frame for note in notes for frame in note["frames"]]
        for note in notes:
            skipped |= {f"{split} {name}": why for name, why in note["skipped"].items()}
        infos.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=[TILES * len(note["frames"]) for note in notes],
                num_bytes=sum(job.path.stat().st_size for job in mine),
                filename_template=template.replace(split=split),
            )
        )  # fmt: skip
    write_text(out / SKIPPED, "".join(f"{name}: {why}\n" for name, why in skipped.items()))
    if not any(index.values()):
        raise UserError(f"none of {len(skipped)} frames could be read: {out / SKIPPED} says why")
    tfds.folder_dataset.write_metadata(
        data_dir=out, features=records.features(), split_infos=infos, filename_template=template,
        version=VERSION, check_data=False, description=ABOUT, homepage=HOMEPAGE,
        disable_shuffling=True,
    )  # fmt: skip
    write_text(out / INDEX, json.dumps(index) + "\n")
    return skipped


class Unreal4k(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder: manual_dir is the folder of extracted scenes, with the split files."""

    VERSION = tfds.core.Version(VERSION)
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Extract the scenes 00000 to 00008 here, beside the split files."

    def __init__(self, *, file_format: str | None = "array_record", **rest):
        super().__init__(file_format=file_format, **rest)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, description=ABOUT, features=records.features(), homepage=HOMEPAGE,
            disable_shuffling=True,
        )  # fmt: skip

    def download_and_prepare(self, *, download_dir=None, download_config=None, **_) -> None:
        """Prepares from `download_config.manual_dir` as the command does; skipped.txt is beside."""
        manual = getattr(download_config, "manual_dir", None)
        if manual is None:
            raise UserError("unreal4k is prepared from files: set DownloadConfig(manual_dir=...)")
        prepare(Path(manual), Path(self.data_path))
        self.info.read_from_directory(self.data_path)

    # What follows is TFDS's own interface, for its tools; `download_and_prepare` does not use it.
    def _split_generators(self, dl_manager):
        source = Path(dl_manager.manual_dir)
        found = read_splits(_default_splits(source), source)
        return {split: self._generate_examples(places) for split, places in found.items()}

    def _generate_examples(self, places: list[FrameFiles]):
        for i, place in enumerate(places):
            yield from (
                (TILES * i + k, r) for k, r in enumerate(records.records(read_frame(place)))
            )
