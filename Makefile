# sbx: what a person or CI types. `make quickstart` is the way in, `make test` the whole check.
SHELL      := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export GOFLAGS := -trimpath
VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
PREFIX     ?= /usr/local
LINT       := bin/golangci-lint-2.15.0
AGENTS     := machine/guest/agent/sbx-guest-amd64 machine/guest/agent/sbx-guest-arm64
GUEST_SRC  := $(shell find cmd/sbx-guest machine/guest sync/tree sync/mirror sync/virtiofs/nudge -name '*.go' -not -name '*_test.go') go.mod
HOST_SRC   := $(shell find . -path ./bin -prune -o -name '*.go' -not -name '*_test.go' -print) $(shell find . -name '*.yaml' -not -path './bin/*') go.mod

.PHONY: build setup quickstart test unit egress-report workspace-report fuzz cross vm lint fmt bench bench-network bench-mount bench-sync install clean

build: bin/sbx

# The guest agent is carried inside sbx, for both architectures.
machine/guest/agent/sbx-guest-%: $(GUEST_SRC)
	CGO_ENABLED=0 GOOS=linux GOARCH=$* go build -ldflags '-s -w' -o $@ ./cmd/sbx-guest

bin/sbx: $(AGENTS) $(HOST_SRC)
	go build -ldflags '-X main.version=$(VERSION)' -o $@ ./cmd/sbx

setup: ## installs what is missing on this machine (QEMU, Go)
	.ci/setup

quickstart: setup
	$(MAKE) build
	.ci/quickstart

test: setup
	$(MAKE) lint cross unit egress-report workspace-report fuzz vm

unit: $(AGENTS)
	go test -race -timeout 5m ./...

# Every attack case of the guest's network and of the shared folder, by its ID (e2e/report/*.tsv).
egress-report workspace-report: $(AGENTS)
	go run ./e2e/report -table $(@:-report=)

# What a hostile guest or a hostile file can hand to the network's parsers, FUZZTIME each. Inputs are
# barely minimized: that would take most of the time.
FUZZTIME ?= 60s
FUZZ     := gateway:FuzzFrame gateway:FuzzDNS intercept:FuzzClientHello intercept:FuzzHTTPHead .:FuzzRule .:FuzzDecide .:FuzzPath intercept:FuzzVault
fuzz:
	for f in $(FUZZ); do go test -run '^$$' -fuzz "^$${f#*:}\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x ./netfilter/$${f%:*}; done

# What a Mac and an arm64 laptop would compile, tests included.
cross: $(AGENTS)
	GOOS=darwin GOARCH=arm64 go vet ./...
	for t in darwin/arm64 linux/arm64; do GOOS=$${t%/*} GOARCH=$${t#*/} go test -exec true ./... >/dev/null; done

# The real thing: real QEMU, real image, one after the other.
vm: build
	go test -count=1 -timeout 40m ./e2e -vm -sbx $(CURDIR)/bin/sbx

$(LINT):
	GOFLAGS= GOBIN=$(CURDIR)/bin/lint go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv bin/lint/golangci-lint $@

lint: $(LINT)
	@test -z "$$(gofmt -l cmd configs e2e image machine netfilter qmp sync)" || { gofmt -l .; exit 1; }
	go vet ./...
	go mod tidy -diff
	$(LINT) run

bench: build bin/gvproxy bin/mutagen
	.ci/setup bench
	go run ./e2e/bench -sbx bin/sbx -o bin/bench.json

# The network alone against its peers: two minutes, no machine.
bench-network: bin/gvproxy
	.ci/setup bench
	go run ./e2e/bench -only network -o bin/bench-network.json

# The shared folder against virtiofsd and 9p, in one guest.
bench-mount: build
	.ci/setup bench
	go run ./e2e/bench -only mount -o bin/bench-mount.json

# Modes sync and review's engine against mutagen, unison and rsync.
bench-sync: bin/mutagen
	.ci/setup bench
	go run ./e2e/bench -only sync -o bin/bench-sync.json

# gvisor-tap-vsock as it ships, with the gVisor it was released with.
bin/gvproxy:
	GOFLAGS= GOBIN=$(CURDIR)/bin go install github.com/containers/gvisor-tap-vsock/cmd/gvproxy@v0.8.9

# mutagen as it ships. It is built by way of a module of its own: `go install` asks for a list of versions that not
# every proxy has.
bin/mutagen:
	mkdir -p bin/mutagen.src
	printf 'module peers\n\ngo 1.25\n\nrequire github.com/mutagen-io/mutagen v0.18.1\n' > bin/mutagen.src/go.mod
	cd bin/mutagen.src && GOFLAGS=-mod=mod go build -tags mutagencli -o ../mutagen github.com/mutagen-io/mutagen/cmd/mutagen
	rm -r bin/mutagen.src

install: build
	install -D -m 0755 bin/sbx $(DESTDIR)$(PREFIX)/bin/sbx

clean:
	rm -rf bin $(AGENTS)
