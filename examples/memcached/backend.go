package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
)

// backend is a memcached server that can go away and come back, with nothing of what it knew.
type backend interface {
	up() error   // returns when it can be connected to
	down() error // returns when it is gone
	addr() string
	String() string
}

// program is the name of memcached's.
const program = "memcached"

// newBackend is memcached if it is installed, and otherwise one of our own.
func newBackend() (backend, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}

	path, err := exec.LookPath(program)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return &embedded{address: address}, nil
	case err != nil:
		return nil, err
	}

	return &installed{path: path, address: address, kill: true}, nil
}

// freeAddress finds a free port that the system gives to no outgoing connection, so that it is free when a server comes
// back to it.
func freeAddress() (string, error) {
	var err error
	for range 50 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}

	return "", err
}
