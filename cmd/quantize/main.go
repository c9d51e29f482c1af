// Command quantize rewrites a GGUF file in a quantized type; see quantize --help.
package main

import (
	"os"

	"github.com/smeltgguf/smelt/internal/cli"
)

func main() { os.Exit(cli.Main("quantize", os.Args[1:])) }
