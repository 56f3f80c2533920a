# Naka. Two commands are enough: `make demo` and `make test`. Everything they need is set up on the way.

# One profile for what runs: optimised, no LTO, quick to link (see Cargo.toml).
PROFILE := mesh
NAKA := target/$(PROFILE)/naka

.PHONY: help demo test evidence attacks referee check bench-quick install dist setup

help:
	@echo 'make demo         a whole mesh with load on this machine (DEMO="--for 30s --rate 200", Ctrl-C ends it)'
	@echo 'make test         everything, in quick sizes: checks, unit tests, meshes of real processes'
	@echo 'make evidence     the same tests at full size'
	@echo 'make referee      every case through explain, Naka and a real Envoy (FILTER=match/uri: those whose name holds it)'
	@echo 'make attacks      what strangers try, against Naka and against something without the guard (ATTACK=word, SIZE=full)'
	@echo 'make check        formatting, lints, dependency arrows, documentation; no processes'
	@echo 'make bench-quick  CPU per request and memory beside a real Envoy'
	@echo 'make install      binaries, units, completions, manual pages into PREFIX (default /usr/local), below DESTDIR'
	@echo 'make dist         target/dist/naka-<version>-<arch>-linux.tar.gz with all of that'

demo:
	@scripts/demo.sh $(PROFILE) $(DEMO)

test: check
	@scripts/setup.sh peers
	@scripts/test.sh $(PROFILE) quick

evidence:
	@scripts/setup.sh peers
	@scripts/test.sh $(PROFILE) full

FILTER ?=
referee:
	@scripts/setup.sh peers
	cargo build --quiet --profile $(PROFILE) --locked --workspace --bins
	@NAKA_ENVOY=$(CURDIR)/.venv/bin/envoy target/$(PROFILE)/naka-referee $(FILTER)

SIZE ?= quick
ATTACK ?=
attacks:
	@scripts/setup.sh build
	@cargo build --quiet --locked --profile $(PROFILE) --workspace --bins
	@NAKA_EVIDENCE=$(SIZE) cargo test --quiet --locked --profile $(PROFILE) -p naka-testkit --test attacks -- $(ATTACK)

check:
	@scripts/setup.sh build
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --quiet --locked --profile $(PROFILE) --workspace --test tidy
	@scripts/istio-fields.sh || [ $$? = 3 ] # 3: no Go or no module at hand, said on stderr
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps --locked

bench-quick:
	@scripts/setup.sh peers
	cargo build --profile $(PROFILE) --locked --workspace --bins
	NAKA_ENVOY=.venv/bin/envoy target/$(PROFILE)/naka-bench

PREFIX ?= /usr/local
# NAKA_BUILT=DIR installs or packs binaries that are built already.
NAKA_BUILT ?=
install:
	@scripts/setup.sh build
ifeq ($(NAKA_BUILT),)
	cargo build --release --locked -p naka-cli --bins
endif
	scripts/stage.sh $(or $(NAKA_BUILT),target/release) $(DESTDIR)$(PREFIX) $(PREFIX)

dist:
	@scripts/setup.sh build
	NAKA_BUILT=$(NAKA_BUILT) scripts/dist.sh $(or $(DIST_PROFILE),release)

setup:
	@scripts/setup.sh peers
