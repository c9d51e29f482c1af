#!/usr/bin/env bash
# Speed and memory against llama.cpp and cp; arguments go to the tool.
set -euo pipefail
cd "$(dirname "$0")/.."
exec go run ./internal/tools/bench "$@"
