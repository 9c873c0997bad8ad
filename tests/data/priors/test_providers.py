"""Providers of coarse maps other than networks: folders of maps and degraded ground truth."""

import numpy as np
import pytest
from helpers.coarse_maps import RandomImages

from urgt_jax.data.priors.degrade import STRENGTHS
from urgt_jax.data.priors.providers import Degraded, StoredFolder
from urgt_jax.data.priors.units import fit_disparity
from urgt_jax.errors import UserError


def _slope(index: int):
    """An image whose depth rises evenly from 2 to 5 metres."""
    sample = RandomImages().read(index)
    depth = np.linspace(2, 5, sample.depth.size, dtype=np.float32)
    return sample._replace(depth=depth.reshape(sample.depth.shape))


def test_degraded_is_further_from_the_truth_the_greater_the_strength():
    errors = []
    for strength in ("weak", "middle", "strong"):
        differences = []
        for index in range(3):
            sample = _slope(index)
            depth = Degraded("depth", strength, 6.0).prepare(f"image{index}", sample)
            normal = Degraded("normal", strength, 6.0).prepare(f"image{index}", sample)
            fit = fit_disparity(sample.depth, sample.valid, depth)
            differences.append(np.abs(depth - fit.scale / sample.depth - fit.shift).mean())
            np.testing.assert_allclose(np.linalg.norm(normal, axis=-1), 1, atol=1e-5)
        errors.append(np.mean(differences))
    assert 0 < errors[0] < errors[1] < errors[2] < 0.3
    assert list(STRENGTHS) == ["weak", "middle", "strong"]


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"intrinsics": None}, "image0 has no intrinsics"),
        ({"valid": np.zeros((41, 66), bool)}, "image0: no depth is known"),
    ],
)
def test_degraded_rejects_an_image_without_depth_or_intrinsics(changes, message):
    sample = _slope(0)._replace(**changes)
    with pytest.raises(UserError, match=message):
        Degraded("depth", "weak", 6.0).prepare("image0", sample)


def test_stored_folder_prefers_the_map_that_names_its_kind(tmp_path):
    sample = RandomImages().read(0)
    np.save(tmp_path / "image0.npy", np.full((41, 66), 1, np.float32))
    np.save(tmp_path / "image0_depth.npy", np.full((41, 66), 2, np.float32))
    assert (StoredFolder(tmp_path, "depth").prepare("image0", sample) == 2).all()


def _with_nan(values):
    values[3, 4] = np.nan
    return values


@pytest.mark.parametrize(
    "kind,change,message",
    [
        ("depth", lambda values: values.T, "the aspect ratios differ"),
        ("depth", lambda values: values[None], "a coarse depth map must be"),
        ("depth", lambda values: np.tile(values, (2, 2)), "larger than its image of 44 x 66"),
        ("depth", _with_nan, "1 values that are NaN or infinite"),
        ("depth", lambda values: values.astype(np.uint8), "has dtype uint8"),
        ("normal", lambda values: values[..., 0], "a coarse normal map must be"),
        ("normal", lambda values: values[..., :2], "a coarse normal map must be"),
        ("normal", _with_nan, "NaN or infinite"),
    ],
)
def test_stored_folder_rejects_a_map_that_does_not_fit(tmp_path, kind, change, message):
    shape = (44, 66) if kind == "depth" else (44, 66, 3)
    values = np.random.default_rng(0).uniform(1, 5, shape).astype(np.float32)
    np.save(tmp_path / "image1.npy", change(values))
    with pytest.raises(UserError, match=message) as caught:
        StoredFolder(tmp_path, kind).prepare("image1", RandomImages().read(1))
    assert "image1.npy" in str(caught.value)


@pytest.mark.parametrize("damage", ["remove", "truncate", "empty"])
def test_stored_folder_reports_a_map_that_cannot_be_read(tmp_path, damage):
    path = tmp_path / "image1.npy"
    np.save(path, np.ones((44, 66), np.float32))
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 500 if damage == "truncate" else 0])
    with pytest.raises(UserError, match="image1.npy"):
        StoredFolder(tmp_path, "depth").prepare("image1", RandomImages().read(1))
