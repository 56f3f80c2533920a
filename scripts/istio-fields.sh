#!/usr/bin/env bash
# Extracts the list of fields of Istio's CRDs (cases/istio-crds/fields.txt) from the Go module istio.io/api again and
# compares; with --write it is written, from the newest version of the module or the one named:
#   scripts/istio-fields.sh [--write [VERSION]]
# Exit code 0: equal. 1: differs. 3: Go or the module could not be had, and nothing was compared.
set -euo pipefail
cd "$(dirname "$0")/.."
list=cases/istio-crds/fields.txt
write=
[ "${1:-}" = --write ] && write=1
version=${2:-}
if [ -z "$write" ]; then
    version=$(sed -n 's/^# module: istio.io\/api@\([^ ]*\).*/\1/p' "$list")
fi
command -v go >/dev/null || { echo "istio-fields: no Go here; nothing compared" >&2; exit 3; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
told=$(cd "$scratch" && GOFLAGS=-mod=mod go mod download -json "istio.io/api@${version:-latest}" 2>"$scratch/error") || {
    echo "istio-fields: the Go module proxy does not answer; nothing compared" >&2
    cat "$scratch/error" >&2
    exit 3
}
field() { printf '%s\n' "$told" | sed -n "s/^[[:space:]]*\"$1\": \"\(.*\)\",\{0,1\}\$/\1/p"; }
export NAKA_ISTIO_CRDS
NAKA_ISTIO_CRDS=$(field Dir)/kubernetes/customresourcedefinitions.gen.yaml
sha=$(sha256sum "$NAKA_ISTIO_CRDS" | cut -d' ' -f1)
if [ -n "$write" ]; then
    export NAKA_ISTIO_HEADER="# Fields of Istio's custom resources: path and type, ! = required. Extracted by scripts/istio-fields.sh; do not edit.
# module: istio.io/api@$(field Version) $(field Sum)
# file: kubernetes/customresourcedefinitions.gen.yaml sha256 $sha
# The file is part of the Istio API, copyright Istio Authors, Apache License 2.0
# (https://www.apache.org/licenses/LICENSE-2.0); only names and types are kept here."
elif ! grep -q "$sha" "$list"; then
    echo "istio-fields: the module's file is not the one that $list names" >&2
    exit 1
fi
cargo test --quiet --profile mesh --workspace --test istio the_list_is_what_the_module_says
echo "istio-fields: $list is what istio.io/api@$(field Version) says"
