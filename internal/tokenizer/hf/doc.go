// Package hf reads the tokenizer files that Hugging Face checkpoints and Mistral
// and Meta releases have beside their weights: tokenizer.json, vocab.json with
// merges.txt, tiktoken's lists of ranks and tekken.json.
package hf
