"""Coarse maps of a whole data set: what is stored, how it is read back, and how a job goes on."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest

from urgt_jax.commands import priors as priors_command
from urgt_jax.config import Prior, Vit
from urgt_jax.data.priors import networks as coarse
from urgt_jax.data.priors import providers, stored
from urgt_jax.data.priors.degrade import STRENGTHS
from urgt_jax.data.priors.precompute import _batches
from urgt_jax.data.priors.stored import StoredPriors
from urgt_jax.data.priors.units import to_network_unit
from urgt_jax.data.samples import WHOLE, Sample
from urgt_jax.errors import UserError, exit_status
from urgt_jax.images import files as pictures
from urgt_jax.images.geometry import unit_normals
from urgt_jax.images.resize import resize_linear
from urgt_jax.models import registry
from urgt_jax.models.depth_anything import DepthAnythingConfig
from urgt_jax.models.metric3d import Metric3DConfig
from urgt_jax.models.registry import abstract_params
from urgt_jax.weights.weight_file import load_weights, save_weights

ROOT = Path(__file__).parents[3]
VIT = Vit(
    width=16, depth=1, num_heads=2, pretrain_size=42, registers=0, position_resampling="offset"
)
CONFIGS = {
    "depth": DepthAnythingConfig(
        VIT, layers=(0, 0, 0, 0), features=8, channels=(8, 8, 8, 8), size=28
    ),
    "normal": Metric3DConfig(VIT, channels=(8, 16), hidden=8, iters=1, bins=8, input_size=(28, 56)),
}
SIZES = [(41, 66), (44, 66), (41, 66)]  # of one shape, (28, 42), for Depth Anything
LIMIT = 6.0  # metres; some of the truth lies beyond


class Memory:
    """Three random pictures of two sizes; those in `broken` cannot be read."""

    def __init__(self, broken=(), unsized=()):
        self.broken, self.unsized = broken, unsized

    def __len__(self):
        return len(SIZES)

    def name(self, index):
        return f"picture{index}"

    def size(self, index):
        if index in self.unsized:
            raise UserError(f"{self.name(index)}.png is empty")
        return SIZES[index]

    def read(self, index, window=WHOLE):
        if index in self.broken:
            raise UserError(f"{self.name(index)}.png is damaged")
        rng, size = np.random.default_rng(index), SIZES[index]
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        depth = rng.uniform(1, 8, size).astype(np.float32)
        valid = rng.random(size) < 0.8
        camera = np.array([50, 50, size[1] / 2, size[0] / 2], np.float32)
        return Sample(image[window], depth[window], valid[window], camera)


def save(path: Path, config, seed: int) -> Path:
    """Random weights of a tiny network, kernels of unit gain."""
    rng = np.random.default_rng(seed)

    def draw(where, leaf):
        z = rng.standard_normal(leaf.shape, np.float32)
        if len(leaf.shape) > 1:
            return z / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))
        return 0.1 * z + (not jax.tree_util.keystr(where).endswith("bias']"))

    shapes = abstract_params(registry.network_config(config))
    save_weights(path, jax.tree_util.tree_map_with_path(draw, shapes), config)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weight files of both networks."""
    folder = tmp_path_factory.mktemp("weights")
    return {what: save(folder / f"{what}.safetensors", c, 0) for what, c in CONFIGS.items()}


@pytest.fixture(scope="module")
def filled(weights, tmp_path_factory):
    """A folder that a whole job filled, undisturbed."""
    out = tmp_path_factory.mktemp("filled")
    run(networks(weights), out)
    return out


def networks(weights) -> dict:
    return {"--depth-weights": weights["depth"], "--normal-weights": weights["normal"]}


def run(options: dict, out: Path, *more, source=None) -> None:
    """The command with a data set in memory; its maps come to lie in `out`/all."""
    told = [x for pair in options.items() for x in pair]
    argv = ["fill", "--data", "memory", ".", "--out", out, "--max-depth", LIMIT, *told, *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priors_command, "open_source", lambda name, path, split: source or Memory())
        patch.setattr(sys, "argv", [str(x) for x in argv])
        priors_command.main()


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "all").iterdir())}


def test_what_is_read_back_is_what_the_networks_give(filled, weights):
    disparity = coarse.load(weights["depth"], "depth_anything")
    normals = coarse.load(weights["normal"], "metric3d")
    kept, source = StoredPriors(filled / "all"), Memory()
    for index, size in enumerate(SIZES):
        image = source.read(index).image
        depth, normal = kept.read(source.name(index), size)
        want, _ = to_network_unit(disparity(image), Prior(), LIMIT)
        assert depth.dtype == normal.dtype == np.float32
        assert depth.min() == 0 and depth.max() == 1 and depth.std() > 0.05
        np.testing.assert_allclose(depth, want, rtol=0, atol=1e-6)
        np.testing.assert_allclose(normal, unit_normals(normals(image)), rtol=0, atol=1e-6)
        assert normal.std((0, 1)).max() > 0.01


def test_degraded_truth_follows_the_truth_more_closely_the_weaker_it_is(tmp_path):
    class Slope(Memory):
        def read(self, index, window=WHOLE):
            sample = super().read(index, window)
            depth = np.linspace(2, 5, sample.depth.size, dtype=np.float32)
            return sample._replace(depth=depth.reshape(sample.depth.shape))

    far = {}
    for strength in STRENGTHS:
        run({"--degrade": strength}, tmp_path / strength, source=Slope())
        kept, found = StoredPriors(tmp_path / strength / "all"), []
        for index, size in enumerate(SIZES):
            depth, normal = kept.read(f"picture{index}", size)
            fit, sample = kept.fit(f"picture{index}"), Slope().read(index)
            found.append(np.abs(depth - fit.scale / sample.depth - fit.shift).mean())
            np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
        far[strength] = np.mean(found)
    assert 0 < far["weak"] < far["middle"] < far["strong"] < 0.3


def test_maps_are_stored_at_the_networks_own_size(filled):
    shapes = {name: np.load(filled / "all" / name).shape for name in contents(filled)
              if name.endswith(".npy")}  # fmt: skip
    assert shapes["picture0_depth.npy"] == shapes["picture1_depth.npy"] == (28, 42)
    assert shapes["picture0_normal.npy"] == (28, 45, 3)
    assert shapes["picture1_normal.npy"] == (28, 42, 3)
    assert len(contents(filled)) == 3 * 3 + 1


WINDOWS = [(slice(0, 7), slice(0, 9)), (slice(20, 41), slice(33, 51)), (slice(13, 14), WHOLE[1]),
           WHOLE]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_equals_the_crop_of_the_whole(filled, window):
    kept = StoredPriors(filled / "all")
    for index, size in enumerate(SIZES):
        whole, part = (kept.read(f"picture{index}", size, w) for w in (WHOLE, window))
        for x, y in zip(whole, part, strict=True):
            np.testing.assert_array_equal(x[window], y)


def test_the_fit_is_the_best_line_from_true_disparity_to_the_coarse_one(filled):
    kept, source = StoredPriors(filled / "all"), Memory()
    for index, size in enumerate(SIZES):
        sample, name = source.read(index), source.name(index)
        valid = sample.valid & (sample.depth < LIMIT)
        assert 0.3 < valid.mean() < 0.7
        inverse = 1 / sample.depth[valid].astype(np.float64)
        want = np.polyfit(inverse, kept.read(name, size)[0][valid], 1)
        np.testing.assert_allclose(kept.fit(name), want, atol=1e-6)


def test_stored_priors_travel_to_workers(filled):
    kept = pickle.loads(pickle.dumps(StoredPriors(filled / "all")))
    assert kept.kind == "disparity" and kept.read("picture0", SIZES[0])[0].shape == SIZES[0]


def test_priors_json_says_what_made_them(filled, weights):
    told = json.loads((filled / "all" / "priors.json").read_text())
    assert told["depth"]["model"] == "Depth Anything V2" and told["depth"]["size"] == 28
    assert told["normal"]["config"]["process"] == [28, 56] and told["max_depth"] == LIMIT
    assert told["data"] == "memory"
    done = subprocess.run(["sha256sum", weights["depth"]], capture_output=True, text=True)
    assert done.stdout.split()[0] == told["depth"]["sha256"]


def test_two_hosts_make_what_one_makes(filled, weights, tmp_path):
    for host in range(2):
        run(networks(weights), tmp_path, "--host", host, 2)
        assert len(list(tmp_path.rglob("*_fit.json"))) == (2, 3)[host]
    assert contents(tmp_path) == contents(filled)


def test_one_device_makes_what_eight_make(filled, weights, tmp_path, monkeypatch):
    assert len(jax.local_devices()) == 8
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    files = maps(tmp_path / "maps")
    options = {"--depth-weights": weights["depth"], "--normal-maps": files["--normal-maps"]}
    run(options, tmp_path, "--host", 0, 2)
    for name in ("picture0_depth.npy", "picture2_depth.npy"):
        one, eight = np.load(tmp_path / "all" / name), np.load(filled / "all" / name)
        np.testing.assert_allclose(one, eight, rtol=0, atol=1e-6 * eight.max())


class Mixed(Memory):
    """Twenty pictures of three sizes, one after the other."""

    def __len__(self):
        return 20

    def size(self, index):
        return [(41, 66), (44, 66), (66, 41)][index % 3]


def test_only_pictures_of_one_shape_run_together(weights, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:4])
    source, maker = Mixed(), providers.DepthProvider(weights["depth"])
    batches = [[x for (x,) in b] for b in _batches(source, [maker], list(range(3, 20)), [])]
    assert sorted(sum(batches, [])) == list(range(3, 20))
    assert max(len(batch) for batch in batches) == 4
    for batch in batches:
        assert len({maker.shape(source.size(index)) for index in batch}) == 1
    assert len(batches) == -(-12 // 4) + -(-5 // 4)


def test_a_second_job_makes_only_what_is_missing(filled, weights, tmp_path, capsys):
    run(networks(weights), tmp_path)
    folder = tmp_path / "all"
    (folder / "picture1_normal.npy").unlink()
    (folder / "picture2_fit.json").unlink()
    (folder / "picture2_depth.npy").write_bytes(b"half")
    kept = (folder / "picture0_depth.npy").stat().st_mtime_ns
    run(networks(weights), tmp_path)
    assert "1 of 3 pictures are there already" in capsys.readouterr().out
    assert (folder / "picture0_depth.npy").stat().st_mtime_ns == kept
    assert contents(tmp_path) == contents(filled)


def maps(folder: Path, spoil=lambda name, x: x, sizes=SIZES) -> dict:
    """Maps of another model, and the options that take them."""
    rng = np.random.default_rng(5)
    (folder / "depth").mkdir(parents=True)
    (folder / "normal").mkdir()
    for index, size in enumerate(sizes):
        depth = rng.uniform(1, 5, size).astype(np.float32)
        normal = rng.standard_normal((*size, 3)).astype(np.float32)
        np.save(folder / "depth" / f"picture{index}.npy", spoil(f"depth{index}", depth))
        name = f"picture{index}_normal.npy"
        np.save(folder / "normal" / name, spoil(f"normal{index}", normal))
    return {"--depth-maps": folder / "depth", "--normal-maps": folder / "normal"}


def test_a_killed_job_goes_on_to_the_same_bytes(tmp_path):
    options = maps(tmp_path / "maps")
    run(options, tmp_path / "whole")
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        import test_fill
        from pathlib import Path
        replace, count = os.replace, []
        def fatal(*paths):
            count.append(paths)
            if len(count) == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*paths)
        os.replace = fatal
        test_fill.run({ ({k: str(v) for k, v in options.items()})!r}, Path({str(tmp_path)!r}))
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment)
    assert done.returncode == -9
    assert 1 <= len(list((tmp_path / "all").glob("picture*"))) < 9
    run(options, tmp_path)
    left = {name: x for name, x in contents(tmp_path).items() if not name.startswith(".")}
    assert left == contents(tmp_path / "whole")


def test_maps_of_the_pictures_size_are_kept_untouched(tmp_path):
    options = maps(tmp_path / "maps")
    run(options, tmp_path, "--maps-kind", "depth")
    kept = StoredPriors(tmp_path / "all")
    depth, normal = kept.read("picture1", SIZES[1])
    given = np.load(options["--depth-maps"] / "picture1.npy")
    np.testing.assert_allclose(depth * LIMIT, given, rtol=1e-6)
    assert kept.kind == "depth"
    given = np.load(options["--normal-maps"] / "picture1_normal.npy")
    np.testing.assert_array_equal(normal, unit_normals(given))


def test_smaller_maps_are_enlarged_with_pixel_centres_at_one_half(tmp_path):
    sizes = [(21, 33), (22, 33), (20, 33)]
    options = maps(tmp_path / "maps", lambda name, x: x.astype(np.float16), sizes)
    run(options, tmp_path)
    kept = StoredPriors(tmp_path / "all")
    for index, size in enumerate(SIZES):
        given = np.load(options["--depth-maps"] / f"picture{index}.npy").astype(np.float32)
        whole = resize_linear(given, *size)
        want = (whole - whole.min()) / (whole.max() - whole.min())
        depth, _ = kept.read(f"picture{index}", size)
        np.testing.assert_allclose(depth, want, atol=1e-6)


def test_every_split_has_a_folder_of_its_own(tmp_path):
    run(maps(tmp_path / "maps"), tmp_path / "out", "--split", "train", "test")
    train, test = (sorted(p.name for p in (tmp_path / "out" / s).iterdir())
                   for s in ("train", "test"))  # fmt: skip
    assert train == test and len(train) == 10


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot make the folder"):
        run(maps(tmp_path / "maps"), tmp_path / "file" / "out")


def _nan(x):
    x[3, 4] = np.nan
    return x


@pytest.mark.parametrize(
    "which,spoil,told",
    [
        ("depth1", lambda x: x.T, "its aspect is another"),
        ("depth1", lambda x: x[None], "a coarse depth map is"),
        ("depth1", lambda x: np.tile(x, (2, 2)), "larger than its picture of 44 x 66"),
        ("depth1", _nan, "1 values that are NaN or infinite"),
        ("depth1", lambda x: x.astype(np.uint8), "has dtype uint8"),
        ("normal1", lambda x: x[..., 0], "a coarse normal map is"),
        ("normal1", lambda x: x[..., :2], "a coarse normal map is"),
        ("normal1", _nan, "NaN or infinite"),
    ],
)
def test_a_wrong_map_is_told_and_the_others_are_stored(tmp_path, which, spoil, told):
    options = maps(tmp_path / "maps", lambda name, x: spoil(x) if name == which else x)
    with pytest.raises(UserError, match="1 of 3 pictures were skipped, see .*skipped.txt"):
        run(options, tmp_path)
    [line] = (tmp_path / "all" / "skipped.txt").read_text().splitlines()
    assert told in line and "picture1" in line
    assert len(list(tmp_path.rglob("*_fit.json"))) == 2


@pytest.mark.parametrize("spoil", ["remove", "truncate", "empty"])
def test_a_map_that_cannot_be_read_is_told(tmp_path, spoil):
    options = maps(tmp_path / "maps")
    path = options["--depth-maps"] / "picture2.npy"
    if spoil == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 500 if spoil == "truncate" else 0])
    with pytest.raises(UserError, match="1 of 3 pictures were skipped"):
        run(options, tmp_path)
    [line] = (tmp_path / "all" / "skipped.txt").read_text().splitlines()
    assert "picture2.npy" in line


@pytest.mark.parametrize("source", [Memory(broken=[1]), Memory(unsized=[1]), Memory(broken=[0, 2])])
def test_a_damaged_frame_is_skipped_until_it_is_repaired(filled, weights, tmp_path, source):
    bad = sorted([*source.broken, *source.unsized])
    with pytest.raises(UserError, match=f"{len(bad)} of 3 pictures were skipped"):
        run(networks(weights), tmp_path, source=source)
    listed = (tmp_path / "all" / "skipped.txt").read_text().splitlines()
    assert [line.split(".")[0] for line in listed] == [f"picture{i}" for i in bad]
    run(networks(weights), tmp_path)
    assert contents(tmp_path) == contents(filled)


def test_a_repaired_set_leaves_no_list_of_skipped_pictures(tmp_path):
    options = maps(tmp_path / "maps")
    for host in range(2):
        with pytest.raises(UserError, match=f"pictures were skipped, see .*skipped_{host}.txt"):
            run(options, tmp_path, "--host", host, 2, source=Memory(broken=[0, 1]))
    run(options, tmp_path)
    assert not list(tmp_path.rglob("skipped*")) and len(list(tmp_path.rglob("*_fit.json"))) == 3


def test_hosts_with_one_process_id_begin_a_shared_folder_together(tmp_path, monkeypatch):
    origin = {"kind": "disparity", "max_depth": LIMIT}
    origin |= {what: {"geometry": "centres"} for what in ("depth", "normal")}
    replace, both = os.replace, threading.Barrier(2, timeout=20)

    def together(*paths):
        both.wait()
        replace(*paths)

    monkeypatch.setattr(os, "replace", together)
    with ThreadPoolExecutor(2) as hosts:  # threads, which have one process id too
        jobs = [hosts.submit(stored.claim_folder, tmp_path, origin) for _ in range(2)]
    assert [job.result().kind for job in jobs] == ["disparity"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["priors.json"]


def test_a_picture_of_another_size_than_told_is_skipped(tmp_path, monkeypatch):
    options = maps(tmp_path / "maps")
    monkeypatch.setattr(Memory, "size", lambda self, index: (44, 66))
    with pytest.raises(UserError, match="2 of 3 pictures were skipped"):
        run(options, tmp_path)
    listed = (tmp_path / "all" / "skipped.txt").read_text()
    assert "picture2 is (41, 66) pixels, but its file said (44, 66)" in listed


def test_skipped_pictures_end_the_command_with_status_2(tmp_path, capsys):
    source = Memory(broken=[1])
    options = maps(tmp_path / "maps")
    assert exit_status(lambda: run(options, tmp_path, source=source)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: 1 of 3 pictures were skipped")


@pytest.mark.parametrize(
    "more,told",
    [
        (["--data", "kitti", "."], "data was memory, now kitti"),
        (["--max-depth", 9], r"max_depth was 6.0, now 9.0"),
        (["--depth-size", 42], r"depth.size was 28, now 42"),
        (["--depth-weights", "other"], r"depth.sha256 was \w+, now \w+"),
    ],
)
def test_a_folder_of_another_job_is_refused(filled, weights, tmp_path, more, told):
    if "other" in more:
        more = ["--depth-weights", save(tmp_path / "other.safetensors", CONFIGS["depth"], 1)]
    before = contents(filled)
    with pytest.raises(UserError, match=told):
        run(networks(weights), filled, *more)
    assert contents(filled) == before


@pytest.mark.parametrize(
    "more,told",
    [
        (["--normal-maps", "nowhere"], "not allowed with argument --normal-weights"),
        (["--depth-size", 5], "at least 14 pixels"),
        (["--depth-size", "big"], "invalid _?pixels value"),
        (["--max-depth", "nan"], "a distance above 0"),
        (["--maps-kind", "depth"], "--maps-kind is for --depth-maps"),
        (["--maps-kind", "inverse"], "invalid choice"),
        (["--host", 2, 2], "numbered from 0 to N - 1"),
        (["--hosts", 2, 2], "unrecognized arguments"),
    ],
)
def test_options_that_are_refused(weights, tmp_path, more, told):
    with pytest.raises(UserError, match=told):
        run(networks(weights), tmp_path, *more)
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    "change,told",
    [
        ({"--depth-weights": "nowhere"}, "no weights at nowhere"),
        ({"--normal-weights": "depth"}, "holds weights of Depth Anything V2, but Metric3D v2"),
        ({"--depth-weights": None}, "give --degrade alone, or --depth-weights"),
        ({"--degrade": "weak"}, "give --degrade alone, or --depth-weights"),
        ({"--depth-weights": None, "--depth-maps": "nowhere"}, "no folder with depth maps"),
        ({"--depth-weights": None, "--depth-maps": ".", "--depth-size": 28}, "--depth-size is for"),
    ],
)
def test_makers_that_are_refused(weights, tmp_path, change, told):
    options = {k: weights.get(v, v) for k, v in (networks(weights) | change).items()}
    with pytest.raises(UserError, match=told):
        run({k: v for k, v in options.items() if v is not None}, tmp_path)
    assert not (tmp_path / "all").exists()


def test_damaged_weights_are_told_at_once(weights, tmp_path):
    params, config = load_weights(weights["depth"], "depth_anything")
    params = jax.tree.map(lambda x: x * np.float32("nan"), params)
    save_weights(tmp_path / "nan.safetensors", params, config)
    with pytest.raises(UserError, match="nan.safetensors gives NaN"):
        run({**networks(weights), "--depth-weights": tmp_path / "nan.safetensors"}, tmp_path)


def test_a_full_disk_ends_the_job(tmp_path, monkeypatch):
    options = maps(tmp_path / "maps")

    def full(path, values):
        raise UserError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(pictures, "write_map", full)
    with pytest.raises(UserError, match="cannot write .*: No space left"):
        run(options, tmp_path)
    assert not list(tmp_path.rglob("*_fit.json"))


@pytest.fixture
def copy(filled, tmp_path):
    """A filled folder that may be spoiled."""
    for name, content in contents(filled).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    "name,content,told",
    [
        ("picture1_fit.json", None, "no priors of picture picture1 at"),
        ("picture1_fit.json", b"{", "picture1_fit.json is damaged"),
        ("picture1_fit.json", b"{}", "picture1_fit.json is damaged"),
        ("picture1_depth.npy", None, "no coarse map at .*picture1_depth.npy"),
        ("picture1_depth.npy", b"", "picture1_depth.npy is damaged"),
        ("picture1_depth.npy", slice(0, 300), "picture1_depth.npy is damaged"),
        ("picture1_normal.npy", "picture1_depth.npy", "picture1_normal.npy holds .*no coarse map"),
        ("priors.json", None, "no priors at .*: run urgt priors"),
        ("priors.json", b"", "priors.json is damaged"),
        ("priors.json", b"{}", "was not written by urgt priors"),
    ],
)
def test_files_that_are_refused_when_read(copy, name, content, told):
    path = copy / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, slice):
        path.write_bytes(path.read_bytes()[content])
    else:
        path.write_bytes((copy / content).read_bytes())
    with pytest.raises(UserError, match=told):
        StoredPriors(copy).read("picture1", SIZES[1])


def test_priors_of_a_picture_of_another_size_are_refused(filled):
    with pytest.raises(UserError, match=r"of a picture of \(44, 66\) pixels, but .* \(44, 67\)"):
        StoredPriors(filled / "all").read("picture1", (44, 67))
    with pytest.raises(UserError, match="no priors at nowhere: run"):
        stored.StoredPriors("nowhere")
