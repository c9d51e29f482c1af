// Command convert turns a published checkpoint into a GGUF file; see convert --help.
package main

import (
	"os"

	"github.com/smeltgguf/smelt/internal/cli"
)

func main() { os.Exit(cli.Main("convert", os.Args[1:])) }
