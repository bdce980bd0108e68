#!/bin/sh
# Makes the virtual environment $VENV with $PYTHON, or says what is missing.
set -eu

if [ -z "$PYTHON" ]; then
    echo 'error: there is no Python 3.11 to 3.13 here. On Debian or Ubuntu: apt-get install python3 python3-venv' >&2
    echo '       If it has another name or place: make PYTHON=/path/to/python ...' >&2
    exit 1
fi
"$PYTHON" - <<'CODE'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"error: Trivium needs Python 3.11 to 3.13; {sys.executable} is {sys.version.split()[0]}.")
try:
    import ensurepip, venv
except ImportError as error:
    package = "python{}.{}-venv".format(*sys.version_info)
    sys.exit(f"error: {sys.executable} lacks {error.name}. On Debian or Ubuntu: apt-get install python3-venv ({package})")
CODE
echo "Making $VENV ..." >&2
# A half-made one would pass for ready at the next run, so none is left behind.
rm -rf "$VENV"
trap 'rm -rf "$VENV"' INT TERM HUP
"$PYTHON" -m venv "$VENV" || { rm -rf "$VENV"; exit 1; }
