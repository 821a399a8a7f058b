package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/faulttest/check"
)

// patience bounds whatever has to happen at some time. No test asserts that anything is fast: with the race detector, on a
// machine that has a lot else to do, a process may get a fiftieth of the time that it gets otherwise.
const patience = 2 * time.Minute

// pause is the time between two faults: long enough for requests to get through.
const pause = 20 * time.Millisecond

// balance has a test fail unless it leaves the goroutines and descriptors that it has found. Call it first.
func balance(t *testing.T) {
	t.Helper()
	before := check.Before()
	t.Cleanup(func() { require.NoError(t, before.Back(patience)) })
}

// within makes a context that nothing should outlast.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for what has to be true at some time.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	require.Eventually(t, is, patience, 2*time.Millisecond, what)
}

// receive waits for a value.
func receive[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		require.FailNow(t, "never came", what)
		panic("unreachable")
	}
}

// freeAddress finds a free port, for TCP and UDP, that the system gives to no outgoing connection. A server that goes away
// and comes back must find it free, whatever else runs on the machine; so on Linux, where all of 127.0.0.0/8 is this
// machine, each server has an IP address that nobody else uses.
func freeAddress(t *testing.T) (host string, port int) {
	t.Helper()
	for range 50 {
		host, port = "127.0.0.1", 10_000+rand.IntN(20_000)
		if runtime.GOOS == "linux" {
			host = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
		}
		address := net.JoinHostPort(host, strconv.Itoa(port))
		tcp, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", address)
		require.NoError(t, tcp.Close())
		if err == nil {
			require.NoError(t, udp.Close())
			return host, port
		}
	}
	require.FailNow(t, "no free port")
	return "", 0
}

// installed finds a program. Where it is missing the test is skipped, but not in the gate, which has to install it.
func installed(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil && os.Getenv("CI") == "true" {
		require.FailNow(t, "a program is missing", "%v; on Debian: apt-get install %s", err, name)
	}
	if err != nil {
		t.Skipf("%v; on Debian: apt-get install %s", err, name)
	}
	return path
}

// program is a server in a process of its own, which can go away and come back.
type program struct {
	t         *testing.T
	args      []string
	addresses []string // that it listens on

	cmd    *exec.Cmd     // nil while it is down
	output *bytes.Buffer // complete when the process has ended
	ended  chan error
}

// start starts a program until the test ends.
func start(t *testing.T, p *program) *program {
	t.Helper()
	p.t = t
	p.up()
	t.Cleanup(func() { p.down(syscall.SIGKILL) })
	return p
}

// up starts the program and waits until it takes connections.
func (p *program) up() {
	p.t.Helper()
	p.output = new(bytes.Buffer)
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	require.NoError(p.t, p.cmd.Start())
	cmd, ended := p.cmd, make(chan error, 1)
	p.ended = ended
	go func() { ended <- cmd.Wait() }()
	for _, address := range p.addresses {
		for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				require.NoError(p.t, conn.Close())
				break
			}
			if len(ended) > 0 || time.Since(begun) > patience {
				p.down(syscall.SIGKILL)
				require.FailNow(p.t, "the program takes no connections", "%v\n%s", err, p.output)
			}
		}
	}
}

// down ends the program, by a signal, and waits until it is gone.
func (p *program) down(signal os.Signal) {
	p.t.Helper()
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Signal(signal); !errors.Is(err, os.ErrProcessDone) {
		require.NoError(p.t, err)
	}
	receive(p.t, "the end of the program", p.ended) // that a signal was the cause is no news
	p.cmd = nil
}

// answering is a server of a test's own: it serves each connection with a function, until that returns.
func answering(t *testing.T, serve func(conn *net.TCPConn)) (address string) {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		serving.Wait() // the client has closed its connections
	})
	return listener.Addr().String()
}
