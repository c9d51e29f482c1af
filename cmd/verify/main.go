// Command verify measures what a conversion or quantization lost; see verify --help.
package main

import (
	"os"

	"github.com/smeltgguf/smelt/internal/cli"
)

func main() { os.Exit(cli.Main("verify", os.Args[1:])) }
