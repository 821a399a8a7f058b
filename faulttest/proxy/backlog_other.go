//go:build !unix

package proxy

import "net"

func setBacklog(*net.TCPListener, int) error { return nil }
