#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:-10s}

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# fuzz runs one target. Now and then go test reports the end of the time itself
# as a failure: that is not one, there is no input to it.
fuzz() {
	if go test -run '^$' -fuzz "^$1\$" -fuzztime "$time" "$2" >"$log" 2>&1; then
		cat "$log"
		return
	fi
	if grep -q '^    context deadline exceeded$' "$log" && ! grep -q 'Failing input\|panic\|_test.go:' "$log"; then
		grep '^fuzz:' "$log" || true
		echo "the time ended; no input failed"
		return
	fi
	cat "$log"
	return 1
}

for pkg in $(go list ./...); do
	# A package is compiled once; its targets are run from the binary.
	targets=$(cd "$(go list -f '{{.Dir}}' "$pkg")" && grep -hoE '^func Fuzz[A-Za-z0-9_]+' ./*_test.go 2>/dev/null | sed 's/^func //' | sort -u || true)
	for t in $targets; do
		echo "--- $pkg $t"
		fuzz "$t" "$pkg"
	done
done
