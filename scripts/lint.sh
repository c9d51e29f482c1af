#!/usr/bin/env bash
# Formatting and golangci-lint at a pinned version, built by Go itself where it
# is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
want=$1

unformatted=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || { echo "not gofmt'ed: $unformatted"; exit 1; }

bin="$(go env GOPATH)/bin/golangci-lint-$want"
if [ ! -x "$bin" ]; then
	tmp=$(mktemp -d)
	GOBIN=$tmp go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$want"
	mkdir -p "$(dirname "$bin")"
	mv "$tmp/golangci-lint" "$bin"
	rmdir "$tmp"
fi
"$bin" run ./...
