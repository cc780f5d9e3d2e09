# Each target installs the Debian packages that it lacks, says which, and then does its work.

.DEFAULT_GOAL := help
.PHONY: help demo test bench dpdk doc setup clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## forward real packets between two hosts in a private laboratory, and show it
	@bash tests/setup.sh build run
	cargo build --release --bin ringway
	target/release/ringway demo

test: ## check everything: format, lints, every tier of tests, docs, licences
	@bash tests/setup.sh build run test
	@bash tests/run.sh

bench: ## measure the forwarder beside DPDK's testpmd, and the file server beside nginx and fio, over the same interfaces
	@bash tests/setup.sh build run bench
	cargo build --release --bin ringway
	@bash tests/bench.sh

dpdk: ## install libdpdk-dev and build target/release/ringway with DPDK devices: --port dpdk:net_tap0
	@bash tests/setup.sh build run dpdk
	cargo build --release --bin ringway --features dpdk

doc: ## build the book and the reference into target/book and target/doc
	@bash tests/setup.sh build doc
	@command -v mdbook >/dev/null || test -x target/tools/bin/mdbook || { \
	    echo "setup: building mdbook into target/tools, some minutes, once"; \
	    cargo install mdbook --version 0.5.4 --locked --no-default-features --features search --quiet --root target/tools; }
	PATH="$$PATH:$(CURDIR)/target/tools/bin" mdbook build docs
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps

setup: ## install what any target may need
	@bash tests/setup.sh build run test bench dpdk doc

clean: ## remove what was built
	cargo clean
