# Everything here needs Go, git and make, nothing else, unless a target says so.

export CGO_ENABLED = 0

GO      ?= go
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -s -w -X github.com/smeltgguf/smelt/internal/cli.version=$(VERSION)
FUZZTIME ?= 10s
GOLANGCI_VERSION := v2.15.0

.PHONY: build install demo test race bench fuzz lint asm peer clean

build: ## the four binaries, into bin/
	$(GO) build -tags minimal -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

install: ## the four binaries, into GOBIN
	$(GO) install -tags minimal -trimpath -ldflags '$(LDFLAGS)' ./cmd/...

demo: build ## convert, quantize and verify the model in testdata
	./scripts/demo.sh

test:
	$(GO) test ./...

race: ## what runs concurrently, under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -short ./internal/stream/ ./internal/checkpoint/ ./internal/convert/ ./internal/quantize/ ./internal/decoder/ ./internal/eval/ ./kernels/

bench: build ## speed and memory against llama.cpp (needs python3 and npm for the peer)
	./scripts/bench.sh

fuzz: ## every fuzz target for FUZZTIME
	./scripts/fuzz.sh $(FUZZTIME)

lint: ## installs the pinned linter when it is missing
	./scripts/lint.sh $(GOLANGCI_VERSION)

asm: ## regenerates the assembly
	cd kernels/_asm && $(GO) generate ./...

peer: build ## compares with llama.cpp; skips, saying so, where it is missing
	./scripts/peer.sh

clean:
	rm -rf bin build
