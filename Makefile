# `make help` lists the targets. Build output goes to a cache folder outside the checkout, so
# that a second checkout does not build DataFusion again.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millstream/target
# Tests of two checkouts may share one executable: this says whose snapshots are meant.
export INSTA_WORKSPACE_ROOT := $(CURDIR)
CARGO_FLAGS := --workspace --features failpoints

.PHONY: help demo test test-postgres replay bench bench-quick bench-stages bench-memory lint fuzz

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: ## install what building needs, then show the whole system at work in under a minute
	scripts/setup.sh demo
	cargo build --workspace
	"$$CARGO_TARGET_DIR/debug/millstream" demo

test: ## install what the tests need, then run them all on real servers
	scripts/setup.sh test
	cargo test $(CARGO_FLAGS)

test-postgres: ## the PostgreSQL source's tests on another server: make test-postgres VERSION=18, or 14 to 17
	scripts/setup.sh test
	scripts/test-postgres.sh "$(VERSION)" $(CARGO_FLAGS)

replay: ## all of PostgreSQL's own tests of replication and decoding, beside a source; takes minutes
	scripts/setup.sh test
	MILLSTREAM_REPLAY=all cargo test $(CARGO_FLAGS) --test server -- oracle:: --test-threads 1

bench: ## measure beside the physical limit and beside other tools; takes long
	scripts/bench.sh

bench-quick: ## the same with less work and fewer rounds
	scripts/bench.sh --quick

bench-stages: ## how long each stage takes by itself: decoding, checks, encoding, a commit
	scripts/setup.sh test
	cargo bench --workspace --bench stages

bench-memory: ## peak memory on two million, five million and a million rows or messages; takes minutes
	scripts/setup.sh test
	cargo test $(CARGO_FLAGS) --test integration -- memory:: --ignored --nocapture --test-threads 1

lint: ## formatting, clippy with warnings denied, the import rules, the dependencies' licences
	scripts/setup.sh lint
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	cargo run --quiet --package xtask -- tidy
	"$$(scripts/fetch-cargo-deny.sh --path)" check bans licenses sources

fuzz: ## run each fuzz target of the decoders for a minute, in bounded memory
	scripts/setup.sh fuzz
	scripts/fuzz.sh 60
