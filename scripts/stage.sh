#!/usr/bin/env bash
# Puts what is installed below DEST: bin, units, completions, manual pages. Paths in the units are those of PREFIX.
# Usage: scripts/stage.sh BUILT DEST PREFIX   (`make install`: DEST = $DESTDIR$PREFIX; the tarball: its own root)
set -euo pipefail
cd "$(dirname "$0")/.."
built=$1 dest=$2 prefix=$3
naka=$built/naka
put() { install -D -m "$1" "$2" "$dest/$3"; }

put 0755 "$naka" bin/naka
put 0755 "$built/naka-proxy" bin/naka-proxy
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
for unit in naka-control.service naka-run@.service; do
    sed "s,/usr/local/bin/naka,$prefix/bin/naka," "packaging/systemd/$unit" >"$made/$unit"
    put 0644 "$made/$unit" "lib/systemd/system/$unit"
done
put 0644 packaging/systemd/host-capture.conf share/naka/host-capture.conf
put 0644 packaging/sysusers.d/naka.conf lib/sysusers.d/naka.conf
for shell in bash zsh fish; do "$naka" completion $shell >"$made/$shell"; done
put 0644 "$made/bash" share/bash-completion/completions/naka
put 0644 "$made/zsh" share/zsh/site-functions/_naka
put 0644 "$made/fish" share/fish/vendor_completions.d/naka.fish
"$naka" man "$made/man"
for page in "$made"/man/*.1; do put 0644 "$page" "share/man/man1/$(basename "$page")"; done
