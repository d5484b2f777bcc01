#!/usr/bin/env bash
# Build an image and print its digest, which EMBEDCUBE_IMAGE_DIGEST passes to every record.
#
#   containers/build.sh DEFINITION IMAGE.sif [OPTIONS of apptainer build]
#
#   containers/build.sh containers/embedcube.def embedcube.sif
#   containers/build.sh containers/embedcube-cpu.def embedcube.sif --build-arg MIRROR=http://mirror.example/debian
#
# In the image pip uses the same certificates and folder of wheels (PIP_FIND_LINKS) as here.
set -euo pipefail
definition=$(realpath "$1") image=$(realpath "$2")
shift 2
cd "$(dirname "${BASH_SOURCE[0]}")/.."

commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || commit+=-changed
options=(--bind "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}:/mnt/certificates.pem:ro"
  --build-arg PIP_CERT=/mnt/certificates.pem --build-arg COMMIT="$commit"
  --build-arg VERSION="$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' pipeline/embedcube/__init__.py)")
if [ -d "${PIP_FIND_LINKS:-}" ]; then
  options+=(--bind "$PIP_FIND_LINKS:/mnt/wheels:ro" --build-arg PIP_FIND_LINKS=/mnt/wheels)
fi
apptainer build "${options[@]}" "$@" "$image" "$definition" >&2
echo "sha256:$(sha256sum "$image" | cut -d' ' -f1)"
