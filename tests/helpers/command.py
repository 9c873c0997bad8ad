"""Commands and their configuration files, as tests start them."""

from etils.epath import Path

from urgt_jax.config import Config
from urgt_jax.config_files import to_json


def call(main, *arguments) -> None:
    """Runs a command line in this process."""
    main([str(argument) for argument in arguments])


def config_file(config: Config, folder: Path) -> Path:
    """A configuration file as a user writes one."""
    path = folder / "micro.py"
    path.write_text(
        "from urgt_jax.config import Config\n"
        "from urgt_jax.config_files import from_json\n"
        f"config = from_json(Config, {to_json(config)!r}, 'micro.py')\n"
    )
    return path
