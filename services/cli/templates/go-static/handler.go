package main

import "strings"

// Handle handles one call of {{name}}.  An error fails the call; its text goes to the log.
func Handle(body []byte) ([]byte, error) {
	name := strings.TrimSpace(string(body))
	if name == "" {
		name = "world"
	}
	return []byte("Hello, " + name + "!\n"), nil
}
