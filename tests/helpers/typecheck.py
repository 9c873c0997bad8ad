"""The checker of annotations, jaxtyping's shapes included, that all tests run under."""

from beartype import BeartypeConf, beartype

# An int is accepted where a float is expected, as PEP 484 says.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
