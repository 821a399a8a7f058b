//go:build !plexlocktime || !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "locks: to be built on Linux with the tag plexlocktime")
	os.Exit(1)
}
