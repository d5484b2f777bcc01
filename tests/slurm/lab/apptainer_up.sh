#!/usr/bin/env bash
# The real Apptainer on Debian 12, which has no package of it: sid's, beside the libc that it wants.
#
#   apptainer_up.sh FOLDER      then FOLDER/usr/bin/apptainer; prints its version
#
# Nothing of sid enters the system. Programs that Apptainer calls come from the system's own release.
set -euo pipefail
FOLDER=$1 APPTAINER=$1/usr/bin/apptainer SID=$1.sid

install_programs() {
  local missing=() package
  for package in squashfs-tools squashfuse uidmap fakeroot patchelf debootstrap; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  apt-get update -qq || true # a foreign list that does not answer is none of ours
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"
}

download() {
  local options=(-o Dir::Etc::sourcelist="$SID/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::State::lists="$SID/lists" -o Dir::State::status="$SID/status" -o Dir::Cache="$SID/cache"
    -o APT::Sandbox::User=root -o Acquire::Languages=none)
  mkdir -p "$SID"/{lists/partial,cache/archives/partial}
  touch "$SID/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $("$(dirname "$0")/mirror.sh") sid main" \
    >"$SID/sources.list"
  apt-get "${options[@]}" -qq update
  (cd "$SID" && apt-get "${options[@]}" -qq download apptainer libc6)
  dpkg-deb -x "$SID"/apptainer_*.deb "$SID/apptainer"
  dpkg-deb -x "$SID"/libc6_*.deb "$SID/libc"
}

assemble() {
  mkdir -p "$FOLDER/libc"
  cp -a "$SID/apptainer/usr" "$FOLDER/usr"
  cp -a "$SID"/libc/usr/lib/x86_64-linux-gnu/*.so* "$FOLDER/libc/"
  # its binaries look for etc/ and var/ relative to their own place
  cp -a "$SID/apptainer/etc" "$FOLDER/usr/etc"
  mkdir -p "$FOLDER/usr/var/lib/apptainer/mnt/session"
  ln -s ../etc "$FOLDER/usr/lib/etc"
  ln -s ../var "$FOLDER/usr/lib/var"
  for binary in "$APPTAINER" "$FOLDER/usr/lib/x86_64-linux-gnu/apptainer/bin/starter"; do
    patchelf --set-interpreter "$FOLDER/libc/ld-linux-x86-64.so.2" "$binary"
    # RPATH, not RUNPATH: Apptainer sets LD_LIBRARY_PATH for a child of its own when it unpacks an image
    patchelf --force-rpath --set-rpath "$FOLDER/libc:/lib/x86_64-linux-gnu:/usr/lib/x86_64-linux-gnu" "$binary"
  done
}

if [ ! -x "$APPTAINER" ]; then
  install_programs >"$FOLDER.log" 2>&1
  download >>"$FOLDER.log" 2>&1
  assemble
  rm -rf "$SID"
fi
"$APPTAINER" --version
