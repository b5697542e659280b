#!/bin/sh
# Build the wheel and run the demo from its content alone, away from the source tree.
set -eu
venv=$(cd "${VENV:-.venv}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$venv/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$work" .
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
  --target "$work/site" "$work"/trilemma-*.whl
cd "$work"
PYTHONPATH="$work/site" "$venv/bin/python" -c '
import pathlib, sys, trilemma
assert pathlib.Path(trilemma.__file__).is_relative_to(pathlib.Path(sys.argv[1]).resolve()), trilemma.__file__
' "$work/site"
PYTHONPATH="$work/site" "$venv/bin/python" -m trilemma demo ddgan-mnist -n 64
echo "wheel: $(ls "$work"/trilemma-*.whl | xargs -n 1 basename), $(du -k "$work"/trilemma-*.whl | cut -f 1) kB"
