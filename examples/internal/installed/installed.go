// Package installed starts servers that are installed on the machine, for the examples that need one.
package installed

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// patience bounds the start and the end of a program.
const patience = 20 * time.Second

// Program is a server in a process of its own.
type Program struct {
	cmd    *exec.Cmd
	output bytes.Buffer  // complete when the process has ended
	ended  chan struct{} // closed when it has
}

// Find finds a program. If it is missing, the error matches exec.ErrNotFound and says which Debian packages bring it.
func Find(name, packages string) (path string, err error) {
	if path, err = exec.LookPath(name); err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name) // which is not in everybody's PATH
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w; on Debian: apt-get install %s", name, exec.ErrNotFound, packages)
	}
	return path, nil
}

// Start starts a program and waits until it takes connections at an address.
func Start(network, address, path string, args ...string) (*Program, error) {
	p := &Program{cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // that a signal was the cause is no news
		close(p.ended)
	}()
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial(network, address)
		if err == nil {
			return p, conn.Close()
		}
		if p.hasEnded() || time.Since(begun) > patience {
			_ = p.Stop(os.Kill)
			return nil, fmt.Errorf("%s takes no connections: %w\n%s", path, err, &p.output)
		}
	}
}

func (p *Program) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Stop sends the program a signal and waits until it has ended. If that takes too long, it is killed, and the error says so.
func (p *Program) Stop(signal os.Signal) error {
	err := p.cmd.Process.Signal(signal)
	select {
	case <-p.ended: // that the signal was the cause is no news
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		return err
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("%s does not end by %v", p.cmd.Path, signal), p.cmd.Process.Kill())
	}
}

// FreeAddress returns an address of loopback on which nobody listens, with a port that the system gives to no outgoing
// connection, so that a server can go away and come back.
func FreeAddress() (string, error) {
	var failed error
	for range 50 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(10_000+rand.IntN(20_000)))
		listener, err := net.Listen("tcp", address)
		if err == nil {
			return address, listener.Close()
		}
		failed = err
	}
	return "", failed
}
