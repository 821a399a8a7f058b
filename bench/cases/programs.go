package cases

// Servers that nobody here wrote, as they are installed on this machine.

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"go.atomizer.io/plex/bench/harness"
)

// program is a server that is installed or not.
type program struct {
	name string // also of its package in Debian
	args func(host, port string) []string
}

// needs returns c, which says that it lacks the program where that is missing.
func (p program) needs(c *harness.Case) *harness.Case {
	if _, err := exec.LookPath(p.name); err != nil {
		c.Lacks = fmt.Sprintf("%s is not installed (on Debian: apt-get install %s)", p.name, p.name)
	}
	return c
}

// start starts the program at an address of its own, and waits until it takes connections.
func (p program) start() (address string, kill func() error, err error) {
	host, port := "127.0.0.1", strconv.Itoa(10_000+rand.IntN(20_000)) // the system gives it to no outgoing connection
	if runtime.GOOS == "linux" {                                      // there all of 127.0.0.0/8 is this machine
		host = fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	}
	cmd := exec.Command(p.name, p.args(host, port)...)
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("%w; on Debian: apt-get install %s", err, p.name)
	}
	kill = func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // that it was killed is no news
		return err
	}
	address = net.JoinHostPort(host, port)
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return address, kill, conn.Close()
		}
		if time.Since(begun) > 30*time.Second {
			return "", nil, errors.Join(fmt.Errorf("%s takes no connections: %w", p.name, err), kill())
		}
	}
}

// shared is one server for all subjects of a case. The first that is opened starts it, and the last
// that is closed ends it.
type shared struct {
	program program
	ready   func(address string) error // prepares a server that has just started; may be nil

	mu      sync.Mutex
	users   int
	address string
	kill    func() error
}

// open returns the address of the server. Whoever got it calls close.
func (s *shared) open() (address string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		if s.address, s.kill, err = s.program.start(); err != nil {
			return "", err
		}
		if s.ready != nil {
			if err := s.ready(s.address); err != nil {
				return "", errors.Join(err, s.kill())
			}
		}
	}
	s.users++
	return s.address, nil
}

func (s *shared) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users > 0 {
		return nil
	}
	return s.kill()
}
