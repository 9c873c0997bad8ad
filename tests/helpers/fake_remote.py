"""A store in a folder, whose addresses begin with fake://, as etils.epath knows gs://.

Only epath can open its addresses. As in other stores, there are no folders without files, nothing
is renamed or appended to, and a file is visible once it was closed.
"""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator

from etils.epath import backend, gpath, register, stat_utils

SCHEME = "fake://"


class FakeStore(backend.Backend):
    """Files under a folder of the disk, and the calls that were made."""

    root = "/nonexistent"
    denied = ""  # files whose address contains this cannot be written

    def _local(self, path: os.PathLike) -> str:
        address = os.fspath(path)
        assert address.startswith(SCHEME), address
        return os.path.join(self.root, address.removeprefix(SCHEME))

    def open(self, path, mode):
        """An open file; what is written is visible once it is closed."""
        if "r" in mode:
            return open(self._local(path), mode, encoding=None if "b" in mode else "utf-8")
        assert "w" in mode, f"a store has no mode {mode}"
        if self.denied and self.denied in os.fspath(path):
            raise PermissionError(f"403 Forbidden: {path}")
        return self._write(self._local(path), mode)

    @contextlib.contextmanager
    def _write(self, local: str, mode: str) -> Iterator:
        os.makedirs(os.path.dirname(local), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".upload") as folder:
            part = os.path.join(folder, "part")
            with open(part, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
            os.replace(part, local)

    def exists(self, path):
        """Whether it is a file, or the beginning of the path of one."""
        return os.path.exists(self._local(path))

    def isdir(self, path):
        """Whether it is the beginning of the path of a file."""
        return os.path.isdir(self._local(path))

    def listdir(self, path):
        """The names in a folder."""
        return os.listdir(self._local(path))

    def glob(self, path):
        """The paths that match a pattern."""
        paths = glob.glob(self._local(path), include_hidden=True)
        return [SCHEME + os.path.relpath(path, self.root) for path in paths]

    def walk(self, top, *, top_down=True, on_error=None):
        """Not needed."""
        raise NotImplementedError

    def makedirs(self, path, *, exist_ok=False, mode=None):
        """Nothing: a store has no folders."""
        assert mode is None, "a store has no modes"

    def mkdir(self, path, *, exist_ok=False, mode=None):
        """Nothing: a store has no folders."""
        assert mode is None, "a store has no modes"

    def rmtree(self, path):
        """Remove a folder and the folders above it that are empty now."""
        shutil.rmtree(self._local(path))
        self._prune(path)

    def remove(self, path):
        """Remove a file and the folders above it that are empty now."""
        os.remove(self._local(path))
        self._prune(path)

    def _prune(self, path):
        folder = os.path.dirname(self._local(path))
        while folder != self.root and not os.listdir(folder):
            os.rmdir(folder)
            folder = os.path.dirname(folder)

    def rename(self, path, dst):
        """Impossible."""
        raise NotImplementedError("a store cannot rename")

    replace = rename

    def copy(self, path, dst, overwrite):
        """Not needed."""
        raise NotImplementedError

    def stat(self, path):
        """Size and time in seconds."""
        status = os.stat(self._local(path))
        return stat_utils.StatResult(
            is_directory=self.isdir(path),
            length=status.st_size,
            mtime=int(status.st_mtime),
            owner=None,
            group=None,
            mode=None,
        )


def register_store(root: os.PathLike) -> FakeStore:
    """Make epath know fake:// addresses, as addresses of files under the folder `root`."""
    store = FakeStore()
    store.root = os.fspath(root)
    os.makedirs(store.root, exist_ok=True)
    # etils has a public way to register a class of paths, but none to add a scheme to its own.
    gpath._URI_PREFIXES = tuple({*gpath._URI_PREFIXES, SCHEME})
    gpath._URI_SCHEMES |= {"fake"}
    gpath._URI_MAP_ROOT[SCHEME] = "/fake/"
    gpath._PREFIX_TO_BACKEND["fake"] = store
    register.register_path_cls(SCHEME)(gpath.PosixGPath)
    return store


if __name__ == "__main__":  # python fake_remote.py ROOT ARGUMENTS: `urgt` with fake:// addresses
    import sys

    register_store(sys.argv[1])
    from urgt_jax.commands.main import main

    sys.argv[:2] = ["urgt"]
    sys.exit(main())
