# What developers and CI run. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.SILENT:

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
IMAGE := kvpn/gateway:$(VERSION)
IMAGE_TAR := target/kvpn-gateway.tar
CLUSTER := tests/cluster
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kvpn-tools
export PATH := $(PATH):$(TOOLS)/bin
# What the tests and the demo run.
export KVPN_BIN ?= $(CURDIR)/target/debug/kvpn
export KVPN_IMAGE_TAR ?= $(CURDIR)/$(IMAGE_TAR)

.PHONY: help
help: ## this list
	sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

.PHONY: build
build: ## the client, for development (target/debug/kvpn)
	cargo build --locked -p kvpn-client

.PHONY: image
image: ## the gateway's image, kvpn/gateway:VERSION, into target/kvpn-gateway.tar
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release -p kvpn-gateway --target $(HOST)
	rm -rf target/image && mkdir -p target/image
	cp target/$(HOST)/release/kvpn-gateway target/image/
	gateway/image.sh -o $(IMAGE_TAR) -r docker.io/$(IMAGE) -u 65532:65532 -e /kvpn-gateway target/image

# PROFILE=debug packages what `make build` makes, without the client's image: to try the recipe.
PROFILE := release
PACKAGES := target/packages
.PHONY: packages
packages: package-tools ## .deb, .rpm, archive for krew, Homebrew formula, chart, client image, SBOM, checksums: target/packages
ifeq ($(PROFILE),release)
	cargo build --locked --release -p kvpn-client
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release -p kvpn-client --target $(HOST)
	client/package/build.sh $(PACKAGES) target/release/kvpn target/$(HOST)/release/kvpn
else
	cargo build --locked -p kvpn-client
	client/package/build.sh $(PACKAGES) target/debug/kvpn
endif

.PHONY: package-tools
package-tools: # what packages needs, into the cache; HELM=yes builds helm too, which only the chart's test needs
	$(call install-tools,cargo-deb cargo-generate-rpm cargo-sbom)
	for t in rpm dpkg-shlibdeps; do \
	  command -v $$t >/dev/null || { echo "$$t is missing: apt-get install rpm dpkg-dev" >&2; exit 1; }; done
	[ -z "$(HELM)" ] || command -v helm >/dev/null || GOFLAGS=-mod=mod GOBIN=$(TOOLS)/bin go install helm.sh/helm/v3/cmd/helm@v3.22.0

.PHONY: demo
demo: ## the way into a cluster, shown: on the test cluster, or on KUBECONFIG's
	$(CLUSTER)/demo.sh

.PHONY: test
test: test-fast test-cluster ## every test; the cluster's need root and build a real Kubernetes the first time

.PHONY: test-fast
test-fast: package-tools ## unit tests, simulator, fuzz corpora, namespaces, arrows: no Kubernetes
	cargo test --locked --workspace --exclude kvpn
	cargo build --locked -p kvpn-client -p kvpn-gateway -p kvpn-bench
	cargo test --locked -p kvpn --lib $(FAST_TESTS)
	python3 -m unittest discover -s benches/tunnels -q

.PHONY: test-cluster
test-cluster: package-tools build image cluster ## the tests on a real Kubernetes (or KVPN_TEST_KUBECONFIG's)
	cargo test --locked --test cluster

# install-tools NAMES: cargo's, into the cache, those that are not there.
define install-tools
for t in $(1); do \
  command -v $$t >/dev/null || { echo "installing $$t (once)"; \
    cargo install --quiet --locked --no-default-features --root $(TOOLS) --target-dir $(TOOLS)/build $$t; } || exit; done
rm -rf $(TOOLS)/build
endef

# Everything in tests/ but the cluster's.
FAST_TESTS = $(foreach t,$(filter-out cluster,$(basename $(notdir $(wildcard tests/*.rs)))),--test $(t))

.PHONY: cluster
cluster: ## starts the test cluster, if it is not up (make cluster-down ends it)
	if [ -z "$$KVPN_TEST_KUBECONFIG" ]; then $(CLUSTER)/build.sh && { $(CLUSTER)/up.sh || [ $$? = 3 ]; }; fi

.PHONY: cluster-down
cluster-down: ## ends the test cluster
	$(CLUSTER)/down.sh

.PHONY: check
check: tools ## format, lints, docs, licences and duplicates, unused dependencies, shell scripts
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --document-private-items
	cargo deny check bans licenses sources
	cargo machete
	shellcheck $$(git ls-files '*.sh') $(CLUSTER)/k $(CLUSTER)/enter .ci/run client/package/settle client/package/deb/*

.PHONY: tools
tools: # what check needs, into the cache
	$(call install-tools,cargo-deny cargo-machete)
	command -v shellcheck >/dev/null || { echo 'shellcheck is missing: apt-get install shellcheck' >&2; exit 1; }

.PHONY: bench
bench: bench-tunnels bench-cluster ## beside the peers: tunnels in namespaces, then port-forward on the test cluster (15 min)

.PHONY: bench-tunnels
bench-tunnels: bench-programs # wireguard-go, boringtun-cli, gotatun-cli and kvpn, two links; needs root
	python3 benches/tunnels compare --budget 600

.PHONY: bench-cluster
bench-cluster: image bench-programs cluster # kubectl port-forward and kvpn, every datapath and carrier; needs root
	KVPN_BIN=$(CURDIR)/target/release/kvpn benches/cluster.sh

.PHONY: bench-exposures
bench-exposures: image bench-programs cluster ## `kvpn expose`: time to take effect and to restore, lost requests, many exposures
	KVPN_BIN=$(CURDIR)/target/release/kvpn benches/exposures.py

.PHONY: bench-full
bench-full: bench-programs ## 0, 20, 80 ms x 0, 0.1, 1 % loss, every peer (2 h)
	python3 benches/tunnels compare --full --rounds 3

.PHONY: bench-integrity
bench-integrity: bench-programs ## SIZE=10GiB each way through every datapath while frames are lost, duplicated and reordered
	python3 benches/tunnels integrity --size $(or $(SIZE),1GiB)

.PHONY: bench-scale
bench-scale: bench-programs ## a gateway with 10,000 peers, 20,000 connections, a noisy peer
	python3 benches/tunnels scale

.PHONY: bench-soak
bench-soak: bench-programs ## MINUTES=30 at full rate, every datapath and carrier: memory stays flat
	python3 benches/tunnels soak --minutes $(or $(MINUTES),30)

.PHONY: bench-cores
bench-cores: ## the cores and both WireGuard libraries on canned packets (criterion)
	cargo bench --locked -p kvpn
	cd benches/library && cargo bench --locked

.PHONY: bench-profile
bench-profile: ## where the cycles of both tunnel ends go (perf)
	cargo build --locked --profile profiling -p kvpn-gateway -p kvpn-bench
	KVPN_BENCH_PROGRAMS=$(CURDIR)/target/profiling python3 benches/tunnels profile

.PHONY: bench-programs
bench-programs:
	cargo build --locked --release -p kvpn-client -p kvpn-gateway -p kvpn-bench -p kvpn-delaylink
	benches/tunnels/tools.sh

.PHONY: cross-check
cross-check: ## type-checks the client for Windows and macOS
	tests/cross/check.sh

.PHONY: cross-wine
cross-wine: ## links kvpn.exe and runs under wine what needs no driver
	tests/cross/wine.sh
