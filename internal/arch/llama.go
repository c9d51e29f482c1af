package arch

// llamaFamily is Llama and what is built like it: grouped-query attention, a
// gated feed-forward or experts (Mixtral), RMS norms, rope over whole heads,
// interleaved in the GGUF.
var llamaFamily = &Family{
	Name:    "llama",
	decoder: func(d *Decoder, _ *params) { d.ExpertNorm = true },
}
