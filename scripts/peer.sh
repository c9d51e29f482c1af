#!/usr/bin/env bash
# Compares with llama.cpp; what is missing is skipped, saying so.
set -euo pipefail
cd "$(dirname "$0")/.."
go test -tags peer -count=1 -v ./internal/peer | grep -vE '^(=== (RUN|PAUSE|CONT)|    --- PASS)'
