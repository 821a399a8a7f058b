// Package peer is the other end of the connections: services in a process of
// their own, so that neither their work nor their memory is counted as that of
// a pool, and a Server in the same process, whose connections can be
// killed.
package peer

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"
)

// Service is what a process offers.
type Service string

// The services. Each is there over TCP, over a Unix socket and over TLS, but
// HTTP over TCP only.
const (
	Sink  Service = "sink"  // reads and forgets
	Drain Service = "drain" // reads and forgets, but over TCP only when much has come
	Flood Service = "flood" // writes without end
	Echo  Service = "echo"  // answers frames, see Frame
	HTTP  Service = "http"  // answers requests, see NewHandler
	DNS   Service = "dns"   // answers queries, see NewQuery; not over a Unix socket
	NATS  Service = "nats"  // is nats-server; over TCP only

	Messages64 Service = "messages-64" // writes messages without end, see MessageSizes
	Messages1K Service = "messages-1k"
)

// MessageSizes are the sizes of the messages of services that write such, each
// behind its length in 4 bytes, the high ones first.
var MessageSizes = map[Service]int{Messages64: 64, Messages1K: 1 << 10}

// The networks.
const (
	TCP  = "tcp"
	Unix = "unix"
	TLS  = "tls"
)

// asked is the environment variable that makes a binary the peer.
const asked = "PLEX_BENCH_PEER"

// hello is what the process says when it is ready.
type hello struct {
	Addresses map[string]string // by service and network
	CA        []byte            // the certificate of its TLS, DER
}

func key(s Service, network string) string { return string(s) + "/" + network }

// Process is another process of the same binary, which has called Main.
type Process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	hello hello
	tls   *tls.Config
}

// Start starts it.
func Start() (*Process, error) {
	binary, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), asked+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, stdin: stdin}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &p.hello)
	}
	if err == nil {
		var ca *x509.Certificate
		if ca, err = x509.ParseCertificate(p.hello.CA); err == nil {
			roots := x509.NewCertPool()
			roots.AddCert(ca)
			p.tls = &tls.Config{RootCAs: roots, ServerName: serverName}
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("peer: the process did not start: %w", err), p.Close())
	}
	return p, nil
}

// Close ends it.
func (p *Process) Close() error {
	_ = p.stdin.Close() // which ends it
	killer := time.AfterFunc(5*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer killer.Stop()
	return p.cmd.Wait()
}

// Dialer returns a function that connects to a service.
func (p *Process) Dialer(s Service, network string) func(context.Context) (net.Conn, error) {
	address := p.hello.Addresses[key(s, network)]
	switch network {
	case TLS:
		d := &tls.Dialer{Config: p.tls}
		return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	default:
		d := &net.Dialer{}
		return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, network, address) }
	}
}

// Address returns a service's address.
func (p *Process) Address(s Service, network string) string {
	return p.hello.Addresses[key(s, network)]
}
