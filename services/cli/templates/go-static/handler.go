package main

import "strings"

// Handle is what {{name}} does with one call.  An error is a failed call; its text goes to the log.
func Handle(body []byte) ([]byte, error) {
	name := strings.TrimSpace(string(body))
	if name == "" {
		name = "world"
	}
	return []byte("Hello, " + name + "!\n"), nil
}
