package peer

// What runs in the other process.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// serverName is whom the certificate is for.
const serverName = "peer.plex.test"

// Main makes this process the peer if it has been started as one by Start; then
// it does not return. A binary that calls Start has to call Main first.
func Main() {
	if os.Getenv(asked) == "" {
		return
	}
	if err := serveAll(); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveAll serves until standard input ends, which it does when the parent
// ends, however that comes.
func serveAll() error {
	dir, err := os.MkdirTemp("", "plex-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	certificate, err := newCertificate()
	if err != nil {
		return err
	}
	h := hello{Addresses: make(map[string]string), CA: certificate.Certificate[0]}
	for service, serve := range map[Service]func(net.Conn){
		Sink: sink, Drain: drain, Flood: flood, Echo: echo,
		Messages64: floodMessages(MessageSizes[Messages64]), Messages1K: floodMessages(MessageSizes[Messages1K]),
	} {
		for _, network := range []string{TCP, Unix, TLS} {
			var l net.Listener
			switch network {
			case TCP:
				l, err = net.Listen("tcp", "127.0.0.1:0")
			case Unix:
				l, err = net.Listen("unix", filepath.Join(dir, string(service)))
			case TLS:
				l, err = tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
			}
			if err != nil {
				return err
			}
			h.Addresses[key(service, network)] = l.Addr().String()
			go acceptAll(l, serve)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.Addresses[key(HTTP, TCP)] = l.Addr().String()
	go func() { _ = http.Serve(l, NewHandler()) }() // it ends with the process

	overTCP, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h.Addresses[key(DNS, TCP)] = overTCP.Addr().String()
	go serveDNS(overTCP)
	overTLS, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return err
	}
	h.Addresses[key(DNS, TLS)] = overTLS.Addr().String()
	go serveDNS(overTLS)
	if h.Addresses[key(NATS, TCP)], err = startNATS(); err != nil {
		return err
	}

	line, err := json.Marshal(h)
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func acceptAll(l net.Listener, serve func(net.Conn)) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer nc.Close()
			serve(nc)
		}()
	}
}

// newCertificate makes a certificate that signs itself.
func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              []string{serverName},
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
