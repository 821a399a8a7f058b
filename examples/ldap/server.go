package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"go.atomizer.io/plex/examples/internal/installed"
)

const (
	suffix   = "dc=plex,dc=test"
	people   = "ou=people," + suffix
	admin    = "cn=admin," + suffix
	password = "secret"
)

// server is the slapd that is installed, with a directory of its own.
type server struct {
	path, dir, address string
	program            *installed.Program
}

// startServer starts it with so many entries and with nothing that outlives remove.
func startServer(entries int) (s *server, err error) {
	s = new(server)
	if s.path, err = installed.Find("slapd", "slapd"); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "plex-ldap-"); err != nil {
		return nil, err
	}
	if s.address, err = installed.FreeAddress(); err == nil {
		err = s.fill(entries)
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

// fill writes the configuration and the entries.
func (s *server) fill(entries int) error {
	config := fmt.Sprintf(`
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile %[1]s/pid
database mdb
directory %[1]s
maxsize 268435456
dbnosync
suffix "%[2]s"
rootdn "%[3]s"
rootpw %[4]s
index uid eq
database monitor
rootdn "%[3]s"
access to * by dn.exact="%[3]s" read
`, s.dir, suffix, admin, password)
	var ldif bytes.Buffer
	fmt.Fprintf(&ldif, "dn: %s\nobjectClass: domain\ndc: plex\n\ndn: %s\nobjectClass: organizationalUnit\nou: people\n", suffix, people)
	for n := range entries {
		fmt.Fprintf(&ldif, "\ndn: %s\nobjectClass: inetOrgPerson\nuid: u%d\ncn: Number %[2]d\nsn: %[2]d\ndescription: %s\n", dn(n), n, description(n))
	}
	if err := os.WriteFile(s.file("config"), []byte(config), 0o600); err != nil {
		return err
	}
	add := exec.Command(s.path, "-T", "add", "-q", "-f", s.file("config"))
	add.Stdin = &ldif
	if out, err := add.CombinedOutput(); err != nil {
		return fmt.Errorf("fill the directory: %w\n%s", err, out)
	}
	return nil
}

func dn(n int) string { return fmt.Sprintf("uid=u%d,%s", n, people) }

func description(n int) string { return fmt.Sprintf("the description of number %d", n) }

func (s *server) file(name string) string { return filepath.Join(s.dir, name) }

func (s *server) start() (err error) {
	s.program, err = installed.Start("tcp", s.address, s.path, "-d", "0", "-f", s.file("config"), "-h", "ldap://"+s.address)
	return err
}

// restart ends slapd, with all its connections, and starts it again.
func (s *server) restart() error {
	if err := s.program.Stop(os.Interrupt); err != nil {
		return err
	}
	return s.start()
}

// remove ends slapd and removes its files.
func (s *server) remove() {
	_ = s.program.Stop(os.Kill)
	_ = os.RemoveAll(s.dir)
}
