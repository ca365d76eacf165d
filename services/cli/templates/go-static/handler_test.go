package main

import "testing"

func TestGreetsTheNameInTheBody(t *testing.T) {
	response, err := Handle([]byte("Wherry\n"))
	if err != nil || string(response) != "Hello, Wherry!\n" {
		t.Fatalf("unexpected response: %q, %v", response, err)
	}
}
