#!/usr/bin/env bash
# The Debian mirror that this machine's apt uses.
set -euo pipefail
apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Label: Debian' | head -1
