#!/usr/bin/env bash
# What the GitHub Action runs, and what can be run by hand in its place:
# checkpoint or GGUF in, quantized file out, gates held, report into the
# summary. Settings come in SMELT_*, as action.yml names them.
set -euo pipefail

work=${RUNNER_TEMP:-build/action}
summary=${GITHUB_STEP_SUMMARY:-$work/summary.md}
outputs=${GITHUB_OUTPUT:-$work/outputs}
mkdir -p "$work"

base=$SMELT_IN
if [ -d "$SMELT_IN" ]; then
	base=$work/base.gguf
	convert --in "$SMELT_IN" --out "$base" --force
fi
out=${SMELT_OUT//\{ftype\}/${SMELT_FTYPE}}
quantize -q "$SMELT_FTYPE" "$base" "$out" --force --manifest

gates=()
while IFS= read -r gate; do
	[ -z "$gate" ] || gates+=(--gate "$gate")
done <<<"${SMELT_GATES:-}"

page=()
if [ -n "${SMELT_HTML:-}" ]; then
	page=(--html "$SMELT_HTML")
	echo "html=$SMELT_HTML" >>"$outputs"
fi

echo "json=$work/report.json" >>"$outputs"
verify --base "$base" --model "$out" --text "$SMELT_TEXT" --ctx "${SMELT_CTX:-512}" --chunks "${SMELT_CHUNKS:-0}" \
	--markdown "$work/report.md" --json "${gates[@]}" "${page[@]}" >"$work/report.json" && status=0 || status=$?
[ ! -f "$work/report.md" ] || cat "$work/report.md" >>"$summary"
exit "$status"
