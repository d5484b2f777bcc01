#!/bin/sh
# Run in the image while it is built: embedcube into /opt/embedcube, at the versions of constraints.txt.
#
#   install.sh EXTRAS [PACKAGES...]
set -eu
cd "$(dirname "$0")"
python3 -m venv /opt/embedcube
pip() { /opt/embedcube/bin/python -m pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt "$@"; }
# torch first and alone: if only a build of several gigabytes is available, one sees it at once
pip torch
extras=$1
shift
pip ".[$extras]" "$@"
