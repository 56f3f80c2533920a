#!/usr/bin/env bash
# Fails when a file below DIR names one of these directories, and says which. Usage: scripts/paths.sh DIR PATH...
set -euo pipefail
dir=$1
shift
found=0
for path in "$@"; do
    [ -n "$path" ] && [ "$path" != / ] || continue
    if files=$(grep -rlaF -- "$path/" "$dir"); then
        echo "paths of this machine ($path) stand in:" $files >&2
        found=1
    fi
done
exit $found
