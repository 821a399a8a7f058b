package faulttest_test

// A network of two namespaces of their own, joined by a cable that can be pulled. Nothing of it is seen outside, and it
// is gone when its threads and sockets are.

import (
	"context"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// namespace is a network namespace, which lives in a thread: whatever do runs, runs in it, and a socket stays in
// the namespace in which it was made.
type namespace struct {
	tid  int
	jobs chan func()
}

// newNamespace makes one, or skips the test with the reason.
func newNamespace(t *testing.T) *namespace {
	n := &namespace{jobs: make(chan func())}
	ready, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread, which is spoilt, ends with the goroutine
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		n.tid = syscall.Gettid()
		ready <- err
		for f := range n.jobs {
			f()
		}
	}()
	t.Cleanup(func() { close(n.jobs); <-done })
	if err := <-ready; err != nil {
		t.Skipf("no network namespace can be had here: %v", err)
	}
	return n
}

func (n *namespace) do(f func()) {
	done := make(chan struct{})
	n.jobs <- func() { defer close(done); f() }
	<-done
}

// ip runs iproute2 in the namespace.
func (n *namespace) ip(t *testing.T, args ...string) {
	t.Helper()
	var out []byte
	var err error
	n.do(func() { out, err = exec.Command("ip", args...).CombinedOutput() })
	if err != nil {
		t.Skipf("the network cannot be set up here: ip %v: %v: %s", args, err, out)
	}
}

// cable joins two namespaces, of which the first has 10.77.0.1 and the second 10.77.0.2.
func cable(t *testing.T) (client, server *namespace) {
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("iproute2 is missing: %v", err)
	}
	client, server = newNamespace(t), newNamespace(t)
	client.ip(t, "link", "set", "lo", "up")
	client.ip(t, "link", "add", "plex0", "type", "veth", "peer", "name", "plex1", "netns", strconv.Itoa(server.tid))
	for _, end := range []struct {
		n          *namespace
		name, addr string
	}{{client, "plex0", "10.77.0.1/24"}, {server, "plex1", "10.77.0.2/24"}} {
		end.n.ip(t, "addr", "add", end.addr, "dev", end.name)
		end.n.ip(t, "link", "set", end.name, "up")
	}
	return client, server
}

// listen serves connections in the namespace until the test ends: each is kept and, if echo is set, echoed.
func (n *namespace) listen(t *testing.T, address string, serve func(net.Conn)) string {
	t.Helper()
	var l net.Listener
	var err error
	n.do(func() { l, err = net.Listen("tcp", address) })
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() {
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
			})
			go func() { serve(c); stop(); _ = c.Close() }()
		}
	}()
	t.Cleanup(func() { cancel(); _ = l.Close(); <-done })
	return l.Addr().String()
}

// dial connects from the namespace, with the kernel's patience lowered to two or three seconds, idle or not.
func (n *namespace) dial(ctx context.Context, address string) (c net.Conn, err error) {
	const tcpUserTimeout = 18
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1},
		Control: func(_, _ string, raw syscall.RawConn) error {
			var optErr error
			err := raw.Control(func(fd uintptr) {
				optErr = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, 2500)
			})
			if err != nil {
				return err
			}
			return optErr
		},
	}
	n.do(func() { c, err = d.DialContext(ctx, "tcp", address) })
	return c, err
}
