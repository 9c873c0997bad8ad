#!/usr/bin/env bash
# Install this checkout into .venv, on every host of a job: pods/setup.sh tpu,gcp
#
# The argument names extras of pyproject.toml: tpu, cuda or nothing (CPU), and others after commas.
# uv brings a Python of its own, because the Python of a TPU image can be 3.10, which is too old.
set -euo pipefail
cd "$(dirname "$0")/.."

extras=${1:-}
python=${PYTHON:-3.12}

if ! command -v uv >/dev/null; then
  python3 -m pip install --quiet --user uv
  PATH=$HOME/.local/bin:$PATH
fi
if [ ! -x .venv/bin/python ]; then
  uv venv --quiet --python "$python" .venv
fi
uv pip install --quiet --python .venv/bin/python "urgt-jax[$extras] @ ."
.venv/bin/python -c 'import sys, jax; print(f"Python {sys.version.split()[0]}, jax {jax.__version__}")'
