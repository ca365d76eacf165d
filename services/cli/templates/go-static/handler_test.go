package main

import "testing"

func TestGreetsWhomTheBodyNames(t *testing.T) {
	response, err := Handle([]byte("Wherry\n"))
	if err != nil || string(response) != "Hello, Wherry!\n" {
		t.Fatalf("not what was expected: %q, %v", response, err)
	}
}
