"""tensorflow-datasets, an optional dependency that takes a second to import."""

from types import ModuleType

from urgt_jax.errors import UserError


def import_tfds() -> ModuleType:
    """The module tensorflow_datasets; a user error where it is not installed."""
    try:
        import tensorflow_datasets
    except ModuleNotFoundError as error:
        if error.name != "tensorflow_datasets":
            raise
        raise UserError(
            'this data set needs tensorflow-datasets. Run: pip install "urgt-jax[data]"'
        ) from error
    return tensorflow_datasets
