package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"go.atomizer.io/plex/examples/internal/installed"
)

// server is the rsyslogd that is installed, which writes what it gets to a file.
type server struct {
	path, dir, address string
	program            *installed.Program
}

// startServer starts it with a certificate and with nothing that outlives remove.
func startServer(config *tls.Config) (*server, error) {
	path, err := installed.Find("rsyslogd", "rsyslog rsyslog-gnutls")
	if err != nil {
		return nil, err
	}
	if drivers, _ := filepath.Glob("/usr/lib/*/rsyslog/lmnsd_gtls.so"); len(drivers) == 0 {
		return nil, fmt.Errorf("rsyslogd's driver for TLS: %w; on Debian: apt-get install rsyslog-gnutls", exec.ErrNotFound)
	}
	s := &server{path: path}
	if s.dir, err = os.MkdirTemp("", "plex-syslog-"); err != nil {
		return nil, err
	}
	if s.address, err = installed.FreeAddress(); err == nil {
		err = s.configure(config.Certificates[0])
	}
	if err == nil {
		err = s.start()
	}
	if err != nil {
		_ = os.RemoveAll(s.dir)
		return nil, err
	}
	return s, nil
}

// configure writes the files that rsyslogd reads.
func (s *server) configure(certificate tls.Certificate) error {
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	if err != nil {
		return err
	}
	config := fmt.Sprintf(`
global(workDirectory="%[1]s" defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="%[1]s/cert"
       defaultNetstreamDriverCertFile="%[1]s/cert" defaultNetstreamDriverKeyFile="%[1]s/key")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon")
input(type="imtcp" address="127.0.0.1" port="%[2]s")
template(name="text" type="string" string="%%app-name%% %%msg%%\n")
if $app-name == "%[3]s" then action(type="omfile" file="%[1]s/lines" template="text")
`, s.dir, s.address[len("127.0.0.1:"):], app)
	for name, data := range map[string][]byte{
		"cert":   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}),
		"key":    pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		"config": []byte(config),
		"lines":  nil,
	} {
		if err := os.WriteFile(s.file(name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) file(name string) string { return filepath.Join(s.dir, name) }

func (s *server) start() (err error) {
	s.program, err = installed.Start("tcp", s.address, s.path, "-n", "-f", s.file("config"), "-i", s.file("pid"))
	return err
}

// stop has rsyslogd write what it has read, and end.
func (s *server) stop() error { return s.program.Stop(syscall.SIGTERM) }

// remove ends rsyslogd, if it still runs, and removes its files.
func (s *server) remove() {
	_ = s.program.Stop(os.Kill)
	_ = os.RemoveAll(s.dir)
}
