// Command smelt converts, quantizes and verifies language models; see smelt --help.
package main

import (
	"os"

	"github.com/smeltgguf/smelt/internal/cli"
)

func main() { os.Exit(cli.Main("smelt", os.Args[1:])) }
