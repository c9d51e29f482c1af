#!/usr/bin/env bash
# Compares with llama.cpp, with transformers where SMELT_PYTHON (or python3) has
# it, and with what llama.cpp made of the models in the folder
# SMELT_SHARED (../shared beside the repository by default); what is missing is
# skipped, saying so.
set -euo pipefail
cd "$(dirname "$0")/.."
shared=${SMELT_SHARED:-$PWD/../shared}
if [ ! -f "$shared/peer/llamacpp.py" ]; then
	echo "skipped: comparisons with llama.cpp: $shared has no peer/llamacpp.py"
	exit 0
fi
export SMELT_SHARED=$shared SMELT_PEER=1
go test -tags peer -count=1 -timeout 40m ./internal/peer ./internal/convert ./internal/tokenizer
