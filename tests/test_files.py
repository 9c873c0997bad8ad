"""Files: errors are one line, and a written file is complete or absent."""

import codecs
import fcntl
import json
import os
import time

import pytest

from urgt_jax.errors import UserError
from urgt_jax.files import (
    HOST,
    atomic_write,
    find_paths,
    inside,
    make_folder,
    open_to_append,
    parse_json,
    read_json_object,
    read_text,
    read_words,
    reporting_read_errors,
    seal,
    unseal,
    write_text,
)


def test_atomic_write_replaces_a_file_only_when_complete(tmp_path):
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    with pytest.raises(ValueError):
        with atomic_write(path) as file:
            file.write(b"half of the new")
            raise ValueError
    assert path.read_text() == "old"
    write_text(path, "new ☃")
    assert path.read_text("utf-8") == "new ☃"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_names_the_final_path_in_errors(tmp_path):
    with pytest.raises(UserError, match="cannot write .*/gone/notes.txt: No such file"):
        write_text(tmp_path / "gone" / "notes.txt", "")
    with pytest.raises(UserError, match="cannot write .*notes.txt: No space left"):
        with atomic_write(tmp_path / "notes.txt"):
            raise OSError(28, "No space left")


def test_atomic_write_removes_what_killed_processes_left(tmp_path):
    names = {
        f".killed.npy.{HOST}0123abcd.tmp": 60,  # seconds since it was written
        f".written.npy.{HOST}0123abcd.tmp": 60,
        ".killed.npy.fedcba980123abcd.tmp": 7200,  # by another host
        ".written.npy.fedcba980123abcd.tmp": 60,
        ".other.tmp": 7200,
        "depth.npy.fedcba980123abcd.tmp": 7200,
    }
    for name, age in names.items():
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age, time.time() - age))
    with (tmp_path / list(names)[1]).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_text(tmp_path / "depth.txt", "whole")
    left = {path.name for path in tmp_path.iterdir()} - {"depth.txt"}
    assert left == {name for name in names if not name.startswith(".killed")}


def test_atomic_write_begins_again_if_its_file_is_removed_before_it_is_locked(
    tmp_path, monkeypatch
):
    real = fcntl.flock

    def too_late(*arguments) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        [temporary] = tmp_path.iterdir()
        temporary.unlink()
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", too_late)
    write_text(tmp_path / "notes.txt", "whole")
    assert (tmp_path / "notes.txt").read_text() == "whole"


def test_atomic_write_holds_a_lock_until_the_file_is_complete(tmp_path):
    with atomic_write(tmp_path / "depth.npy"):
        [temporary] = tmp_path.iterdir()
        with temporary.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with (tmp_path / "depth.npy").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_find_paths_takes_brackets_in_the_name_of_the_folder_literally(tmp_path):
    folder = make_folder(tmp_path / "photos [2024]")
    for name in ("b.png", "a.png", "c.txt"):
        write_text(folder / name, "x")
    assert find_paths(folder, "*.png") == [folder / "a.png", folder / "b.png"]
    assert find_paths(tmp_path, "*/c.txt") == [folder / "c.txt"]
    assert find_paths(tmp_path / "missing", "*") == []


def test_make_folder_rejects_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        make_folder(tmp_path / "file" / "folder")
    assert make_folder(tmp_path / "a" / "b").is_dir()


def test_text_and_json_are_read_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(codecs.BOM_UTF8 + b'{"a": 1}')
    assert read_text(path, "text") == '{"a": 1}'
    assert read_json_object(path) == {"a": 1}


def test_read_words_skips_empty_lines(tmp_path):
    (tmp_path / "list.txt").write_text("a b\n\n  \n c\n")
    assert read_words(tmp_path / "list.txt", "list") == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    "content,message",
    [
        (None, "camera.txt: the camera file is missing"),
        (b"", "camera.txt is empty"),
        (b"\xff", "camera.txt cannot be read. Save or download the camera file again: .*0xff"),
    ],
)
def test_read_text_errors_name_the_file(tmp_path, content, message):
    path = tmp_path / "camera.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text(path, "camera file")


def test_errors_of_libraries_name_the_path_once(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(b"damaged")
    with pytest.raises(UserError) as caught, reporting_read_errors(path, "image"):
        raise ValueError(f"cannot identify image file '{path}'")
    assert str(caught.value).count(str(tmp_path)) == 1
    assert str(caught.value).endswith("cannot identify image file 'photo.png'")


def test_text_may_have_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json_object(tmp_path / "a.json") == {"a": 1}
    assert read_words(tmp_path / "a.json", "list") == [['{"a":', "1}"]]


def test_unseal_returns_what_was_sealed_and_refuses_any_other_value():
    values = {"name": "a", "scores": [0.1, None, {"b": 1e-300}], "size": (3, 4)}
    text = json.dumps(seal(values))
    assert unseal(json.loads(text)) == json.loads(json.dumps(values))
    for old, new in (("0.1", "0.2"), ('"a"', '"b"'), ("[3, 4]", "[4, 3]"), ("null", "1")):
        with pytest.raises(ValueError, match="the checksum is wrong"):
            unseal(json.loads(text.replace(old, new, 1)))
    for other in ({}, [], {"name": "a"}):
        with pytest.raises(ValueError, match="there is no checksum"):
            unseal(other)


def test_read_json_object_rejects_other_json(tmp_path):
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UserError, match="one JSON object"):
        read_json_object(tmp_path / "list.json")
    (tmp_path / "object.json").write_text('{"a": 1}')
    assert read_json_object(tmp_path / "object.json") == {"a": 1}


@pytest.mark.parametrize("name", ["", "/etc/passwd", "..", "a/../../b", "../a", "a\0b"])
def test_inside_rejects_names_that_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(UserError, match="leads out of"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", ["a", "a/b.png", "..a", "-rf", "a..b"])
def test_inside_takes_other_names(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


def test_open_to_append_does_not_follow_a_link(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    link = tmp_path / "log"
    os.symlink(precious, link)
    with pytest.raises(UserError, match="log is a link"):
        open_to_append(link)
    assert precious.read_text() == "mine"


def test_write_text_takes_names_that_are_not_utf_8(tmp_path):
    write_text(tmp_path / "a", "photo\udcff.png")
    assert (tmp_path / "a").read_text() == "photo?.png"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "", "{", "\ud800"])
def test_parse_json_raises_one_kind_of_error(text):
    with pytest.raises(ValueError):
        parse_json(text)
