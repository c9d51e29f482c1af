#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10s}

for pkg in $(go list ./...); do
	# A package is compiled once; its targets are run from the binary.
	targets=$(cd "$(go list -f '{{.Dir}}' "$pkg")" && grep -hoE '^func Fuzz[A-Za-z0-9_]+' ./*_test.go 2>/dev/null | sed 's/^func //' | sort -u || true)
	for t in $targets; do
		echo "--- $pkg $t"
		go test -run '^$' -fuzz "^$t\$" -fuzztime "$time" "$pkg"
	done
done
