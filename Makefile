# `make help` lists the targets. Build output goes to a cache folder outside the checkout, so
# that a second checkout does not build DataFusion again.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millstream/target
CARGO_FLAGS := --workspace --features failpoints

.PHONY: help test lint

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

test: ## install what the tests need, then run them all on real servers
	scripts/setup.sh test
	cargo test $(CARGO_FLAGS)

lint: ## formatting, clippy with warnings denied, the import rules
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	cargo run --quiet --package xtask -- tidy
