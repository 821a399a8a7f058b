package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// installed is the memcached that is installed, in a process of its own.
type installed struct {
	path    string
	address string
	options []string // beside the ones that it always has
	kill    bool     // with SIGKILL: it has no time to close its connections

	cmd    *exec.Cmd // nil while the server is down
	output bytes.Buffer
	exited chan error
}

func (s *installed) addr() string { return s.address }

// String is what the program says about itself: its name and version.
func (s *installed) String() string {
	out, err := exec.Command(s.path, "-V").Output()
	if err != nil {
		return s.path
	}

	return strings.TrimSpace(string(out)) + " (" + s.path + ")"
}

func (s *installed) up() error {
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		return err
	}

	args := []string{"-l", host, "-p", port, "-U", "0", "-m", "256"}
	args = append(args, s.options...)
	if os.Getuid() == 0 {
		args = append(args, "-u", "nobody") // it refuses to run as root
	}
	s.output.Reset()
	s.cmd = exec.Command(s.path, args...)
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	cmd, exited := s.cmd, make(chan error, 1)
	s.exited = exited
	go func() { exited <- cmd.Wait() }()

	return s.ready()
}

// ready waits until the server can be connected to.
func (s *installed) ready() error {
	const patience, pause = 10 * time.Second, 5 * time.Millisecond
	for begun := time.Now(); ; time.Sleep(pause) {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			return conn.Close()
		}
		select {
		case exit := <-s.exited:
			s.cmd = nil
			return fmt.Errorf("%s has ended: %w\n%s", s.path, exit, s.output.String())
		default:
		}
		if time.Since(begun) > patience {
			return errors.Join(fmt.Errorf("%s takes no connections: %w", s.path, err), s.down())
		}
	}
}

func (s *installed) down() error {
	if s.cmd == nil {
		return nil
	}

	signal := syscall.SIGTERM
	if s.kill {
		signal = syscall.SIGKILL
	}
	if err := s.cmd.Process.Signal(signal); err != nil {
		return err
	}
	select {
	case <-s.exited: // that it was ended by a signal is no news
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
	s.cmd = nil

	return nil
}
