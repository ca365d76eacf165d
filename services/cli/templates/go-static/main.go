// Runs one call: reads the body from stdin and writes the response to stdout and the log to stderr.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	body, err := io.ReadAll(os.Stdin)
	if err == nil {
		var response []byte
		if response, err = Handle(body); err == nil {
			_, err = os.Stdout.Write(response)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
