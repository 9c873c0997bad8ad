"""`urgt priors`: options, and errors about them."""

import pytest
from etils.epath import Path
from helpers import tiny_prior_networks
from helpers.coarse_maps import RandomImages, contents, run_priors, write_maps

from urgt_jax.errors import UserError, exit_status


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weight files of both networks, by the option that takes them."""
    return tiny_prior_networks.save_both(Path(tmp_path_factory.mktemp("weights")))


@pytest.fixture(scope="module")
def complete(weights, tmp_path_factory):
    """The output folder of a complete job with both networks."""
    out = Path(tmp_path_factory.mktemp("complete"))
    run_priors(weights, out)
    return out


def test_priors_writes_every_split_to_a_folder_of_its_own(tmp_path):
    options = write_maps(tmp_path / "maps")
    run_priors(options, tmp_path / "out", "--split", "train", "test")
    train = sorted(path.name for path in (tmp_path / "out" / "train").iterdir())
    test = sorted(path.name for path in (tmp_path / "out" / "test").iterdir())
    assert train == test and len(train) == 10


def test_priors_does_not_replace_the_maps_that_it_reads(tmp_path):
    options = write_maps(tmp_path)
    with pytest.raises(UserError, match="normal is the folder of the results, which would replace"):
        run_priors(options, tmp_path, "--split", "train", "normal")
    assert not (tmp_path / "train").exists()


def test_priors_reports_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot make the folder"):
        run_priors(write_maps(tmp_path / "maps"), tmp_path / "file" / "out")


def test_priors_exits_with_status_1_when_images_were_skipped(tmp_path, capsys):
    options = write_maps(tmp_path / "maps")
    source = RandomImages(broken=[1])
    assert exit_status(lambda: run_priors(options, tmp_path, source=source)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: 1 of 3 images were skipped")


@pytest.mark.parametrize(
    "more,message",
    [
        (["--data", "booster", "."], "data was folder, now booster"),
        (["--max-depth", 9], r"max_depth was 6.0, now 9.0"),
        (["--depth-size", 42], r"depth.size was 28, now 42"),
        (["--depth-weights", "other"], r"depth.sha256 was \w+, now \w+"),
    ],
)
def test_priors_rejects_a_folder_of_other_settings(complete, weights, tmp_path, more, message):
    if "other" in more:
        path = tmp_path / "other.safetensors"
        tiny_prior_networks.save_random(path, tiny_prior_networks.DEPTH_ANYTHING, 1)
        more = ["--depth-weights", path]
    before = contents(complete)
    with pytest.raises(UserError, match=message):
        run_priors(weights, complete, *more)
    assert contents(complete) == before


@pytest.mark.parametrize(
    "more,message",
    [
        (["--normal-maps", "nowhere"], "not allowed with argument --normal-weights"),
        (["--depth-size", 5], "at least 14 pixels"),
        (["--depth-size", "big"], "invalid _?pixels value"),
        (["--max-depth", "nan"], "a distance above 0"),
        (["--maps-kind", "depth"], "--maps-kind needs --depth-maps"),
        (["--maps-kind", "inverse"], "invalid choice"),
        (["--host", 2, 2], "I must be from 0 to N - 1"),
        (["--hosts", 2, 2], "unknown option --hosts"),
    ],
)
def test_priors_rejects_wrong_options(weights, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        run_priors(weights, tmp_path, *more)
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"--depth-weights": "nowhere"}, "no weights at nowhere"),
        ({"--normal-weights": "depth"}, "weights of Depth Anything V2, but Metric3D v2"),
        ({"--depth-weights": None}, "pass --degrade alone, or one of --depth-weights"),
        ({"--degrade": "weak"}, "pass --degrade alone, or one of --depth-weights"),
        ({"--depth-weights": None, "--depth-maps": "nowhere"}, "no folder with depth maps"),
        ({"--depth-weights": None, "--depth-maps": ".", "--depth-size": 28}, "--depth-size needs"),
    ],
)
def test_priors_rejects_sources_that_do_not_exist_or_go_together(
    weights, tmp_path, changes, message
):
    options = weights | changes
    if options["--normal-weights"] == "depth":
        options["--normal-weights"] = weights["--depth-weights"]
    options = {name: value for name, value in options.items() if value is not None}
    with pytest.raises(UserError, match=message):
        run_priors(options, tmp_path)
    assert not (tmp_path / "all").exists()


def test_priors_stops_at_the_limit_of_skipped_images(tmp_path):
    options = write_maps(tmp_path / "maps") | {"--max-skipped": 1}
    with pytest.raises(UserError, match="stopped: 2 were skipped, and --max-skipped allows 1"):
        run_priors(options, tmp_path, source=RandomImages(broken=[0, 1]))
