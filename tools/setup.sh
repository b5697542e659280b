#!/bin/sh
# Make .venv and install the package with the extras named in $1 ("" for none). Safe to run twice:
# nothing happens, and no network is needed, while pyproject.toml and the choice of torch stay.
# Prints one line when something is wrong.
set -u
extras=$1
torch=${TORCH:-torch==2.13.0}
venv=${VENV:-.venv}
log="$venv/install.log"

fail() { echo "setup: $1" >&2; exit 1; }

find_python() {
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"; return
    fi
  done
  [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not Python 3.11 or newer: name another"
  found=$(python3 --version 2>/dev/null || echo "no python3")
  fail "Python 3.11 or newer is needed, found $found: install it, or name it: make PYTHON=/path/to/python"
}

fingerprint() { { cat pyproject.toml tools/setup.sh; echo "$torch $1"; } | cksum; }

stamp="$venv/.installed-${extras:-base}"
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(fingerprint "$extras")" ]; then
  exit 0
fi

python=$(find_python) || exit 1
mkdir -p "$venv" 2>/dev/null || fail "cannot write $venv: check the folder's permissions"
free=$(df -Pk "$venv" | awk 'NR == 2 {print $4}')
[ "$free" -ge 3000000 ] || [ -e "$stamp" ] ||
  fail "about 3 GB of disk are needed in $(pwd), $((free / 1000)) MB are free"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" >"$log" 2>&1 ||
  fail "cannot make a virtual environment with $python: on Debian, apt install python3-venv; see $log"

echo "setup: installing into $venv (a few minutes the first time)"
target="."
[ -n "$extras" ] && target=".[$extras]"
"$venv/bin/python" -m pip install --disable-pip-version-check "$torch" -e "$target" >"$log" 2>&1 || {
  if grep -qiE 'no space left' "$log"; then fail "the disk is full; see $log"; fi
  if grep -qiE 'no matching distribution|connection|name resolution|timed out|max retries' "$log"; then
    fail "the package index could not be reached or lacks a package: check the network; see $log"
  fi
  fail "installation failed: $(grep -iE '^error' "$log" | tail -n 1); see $log"
}
fingerprint "$extras" >"$stamp"
