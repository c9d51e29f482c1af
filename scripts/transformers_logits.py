#!/usr/bin/env python3
"""Logits of checkpoints by Hugging Face transformers, in float32: what our forward pass is compared with.

Reads one JSON object per line, {"dir": CHECKPOINT, "ids": [TOKEN, ...], "out": FILE}, writes the logits of all
positions to FILE as little-endian float32 (tokens x vocabulary), and answers each line with {} or {"error": WHY}.
Needs torch and transformers; nothing is downloaded and no code of a checkpoint is run.
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402


def load(path):
    with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    model = getattr(transformers, config["architectures"][0])
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    if config.get("quantization_config", {}).get("quant_method") == "mxfp4":
        options["quantization_config"] = transformers.Mxfp4Config(dequantize=True)
    loaded, info = model.from_pretrained(path, output_loading_info=True, **options)
    # A weight that is not there would be made up.
    missing = [k for k in info["missing_keys"] if "lm_head" not in k or not loaded.config.tie_word_embeddings]
    if missing or info["mismatched_keys"]:
        raise ValueError(f"missing {missing[:3]}, mismatched {list(info['mismatched_keys'])[:3]}")
    return loaded.float().eval()


def main():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        try:
            with torch.no_grad():
                logits = load(job["dir"])(torch.tensor([job["ids"]]), use_cache=False).logits[0]
            with open(job["out"], "wb") as f:
                f.write(logits.float().contiguous().numpy().astype("<f4").tobytes())
            answer = {}
        except Exception as e:  # a checkpoint that the library cannot run is the caller's business
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
