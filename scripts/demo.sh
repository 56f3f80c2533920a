#!/usr/bin/env bash
# Builds naka and runs the demo; prints how long it took to the first request.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=$1
shift
scripts/setup.sh build
start=$(date +%s.%N)
[ -x "target/$profile/naka" ] || echo "building naka (first time: some minutes on two cores)"
cargo build --locked --profile "$profile" -p naka-cli
NAKA_DEMO_STARTED=$start exec "target/$profile/naka" demo "$@"
