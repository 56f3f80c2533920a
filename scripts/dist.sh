#!/usr/bin/env bash
# Makes target/dist/naka-<version>-<arch>-linux.tar.gz: binaries, units, completions, manual pages, licence, checksums.
# The same tree gives the same bytes: names in order, one time for all files, no owner.
# Usage: scripts/dist.sh [PROFILE]   (release unless given; NAKA_BUILT=DIR takes binaries that are built already)
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-release}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
arch=$(uname -m)
name=naka-$version-$arch-linux
cargo_home=${CARGO_HOME:-$HOME/.cargo}

built=${NAKA_BUILT:-}
if [ -z "$built" ]; then
    # Messages of a panic name source files; they must not name this machine's directories.
    CFLAGS="${CFLAGS:-} -ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$PWD=/naka" \
        RUSTFLAGS="${RUSTFLAGS:-} --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$PWD=/naka" \
        cargo build --profile "$profile" --locked --target-dir target/dist-build -p naka-cli --bins
    built=target/dist-build/$profile
fi

stage=target/dist/$name
rm -rf "$stage"
mkdir -p "$stage"
scripts/stage.sh "$built" "$stage" /usr/local
cp LICENSE README.md "$stage/"
"$built/naka" version --sbom >"$stage/naka.cdx.json"
(cd "$stage" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)

# Of the tree's last change, so that whoever builds the same tree gets the same file.
mtime=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
tar --sort=name --mtime="@$mtime" --owner=0 --group=0 --numeric-owner --mode='u+rw,go+r,go-w,a+X' \
    -C target/dist -cf - "$name" | gzip -n -6 >"target/dist/$name.tar.gz"
(cd target/dist && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")

# Paths of this machine in a binary are a leak and make the bytes differ from machine to machine.
if [ -z "${NAKA_BUILT:-}" ]; then
    scripts/paths.sh "$stage" "$cargo_home" "$PWD" "$HOME"
fi
echo "target/dist/$name.tar.gz"
