#!/usr/bin/env bash
# The main job on the model in testdata: convert, quantize, verify, a report.
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/demo
mkdir -p "$out"

run() {
	printf '\n$ %s\n' "$*"
	"$@"
}

run bin/convert --in testdata/models/tiny/hf --out "$out/tiny-f16.gguf" --force
run bin/quantize -q q8_0 "$out/tiny-f16.gguf" "$out/tiny-q8_0.gguf" --force
run bin/quantize -q q4_0 "$out/tiny-f16.gguf" "$out/tiny-q4_0.gguf" --force
run bin/verify --base "$out/tiny-f16.gguf" --model "$out/tiny-q8_0.gguf" --model "$out/tiny-q4_0.gguf" \
	--text testdata/text/tiny-heldout.txt --ctx 256 --max-ppl-ratio 1.02 --max-kld 0.01 \
	--markdown "$out/report.md" --html "$out/report.html"
printf '\nThe report is %s/report.html, as Markdown %s/report.md\n' "$out" "$out"
