#!/usr/bin/env bash
# Builds every test in one profile, runs them, prints both times and the ten slowest tests.
# Usage: scripts/test.sh PROFILE quick|full [FILTER]
set -euo pipefail
cd "$(dirname "$0")/.."
profile=$1 size=$2 filter=${3:-}
export NAKA_EVIDENCE=$size
export NAKA_VENV=$PWD/.venv
# Lets libtest report the time of each test; the compiler is not affected.
report=(-Z unstable-options --report-time)
mkdir -p target
log=target/test-output.txt
: >"$log"
: >"$log.attacks"

now() { date +%s; }
start=$(now)
echo "building all tests (profile $profile)"
cargo build --quiet --locked --profile "$profile" --workspace --bins
cargo test --locked --profile "$profile" --workspace --no-run 2>&1 | tee target/test-build.txt | grep -E '^(error|warning: unused)' || true
grep -q '^error' target/test-build.txt && exit 1
mapfile -t binaries < <(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' target/test-build.txt)
built=$(now)
echo "built in $((built - start)) s; running ${#binaries[@]} test programs"

# run BINARY LOG: one test program, from its crate's directory.
run() {
    local dir threads=()
    # A process test is a whole mesh; more than two at once on two cores would measure the machine, not Naka.
    case $1 in *evidence-*) threads=(--test-threads=2) ;; esac
    dir=crates/$(basename "$1" | sed 's/-[0-9a-f]*$//' | sed 's/^naka_//')
    [ -d "$dir" ] || dir=crates/testkit
    (cd "$dir" && RUSTC_BOOTSTRAP=1 "$OLDPWD/$1" "${report[@]}" "${threads[@]}" $filter) >>"$2" 2>&1 && return
    echo "FAILED: $1"
    return 1
}

# The attacks run beside everything but the process tests, because most of their time is waiting for what must not happen.
failed=0
beside=
for binary in "${binaries[@]}"; do
    case $binary in *attacks-*) run "$binary" "$log.attacks" & beside=$! ;; esac
done
for binary in "${binaries[@]}"; do
    case $binary in *attacks-* | *evidence-*) continue ;; esac
    run "$binary" "$log" || failed=1
done
if [ -n "$beside" ]; then
    wait "$beside" || failed=1
    cat "$log.attacks" >>"$log"
fi
for binary in "${binaries[@]}"; do
    case $binary in *evidence-*) run "$binary" "$log" || failed=1 ;; esac
done
ended=$(now)
grep -E '^(test .* FAILED|---- .* stdout|thread .* panicked)' "$log" || true
[ "$failed" = 0 ] || sed -n '/^failures:/,/^test result/p' "$log" | sed -n 1,300p
echo "== ten slowest tests =="
sed -n 's/^test \(.*\) \.\.\. ok <\(.*\)s>$/\2 \1/p' "$log" | sort -rn | awk 'NR <= 10 {printf "%8.2f s  %s\n", $1, $2}'
grep -E '^attacks [0-9]+ of' "$log" || true
awk '/^test result:/ {p += $4; f += $6} END {printf "%d passed, %d failed\n", p, f}' "$log" >target/test-summary.txt
echo "build $((built - start)) s, tests $((ended - built)) s, size $size"
cat target/test-summary.txt
exit $failed
