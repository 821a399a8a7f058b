package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// broker is a NATS server in this process that can go away and come back on the same port, and break connections. Apart
// from where it runs it is what the program nats-server is.
type broker struct {
	options server.Options
	running *server.Server // nil while it is down
}

// readyWithin is how long the server may take to start.
const readyWithin = 10 * time.Second

// newBroker makes a broker that is down, with a free port.
func newBroker() (*broker, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}

	return &broker{options: server.Options{
		Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true,
	}}, nil
}

// freePort finds a free port that the system gives to no outgoing connection, so that it is free when the server comes
// back to it.
func freePort() (int, error) {
	var err error
	for range 50 {
		port := 10_000 + rand.IntN(20_000)
		var l net.Listener
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			return port, l.Close()
		}
	}

	return 0, err
}

func (b *broker) addr() string { return fmt.Sprintf("%s:%d", b.options.Host, b.options.Port) }

// up starts the server.
func (b *broker) up() error {
	options := b.options // the server writes into what it is given
	running, err := server.NewServer(&options)
	if err != nil {
		return err
	}
	running.Start()
	if !running.ReadyForConnections(readyWithin) {
		running.Shutdown()
		return fmt.Errorf("the server is not ready on %s after %v", b.addr(), readyWithin)
	}
	b.running = running

	return nil
}

// down ends the server and every connection with it.
func (b *broker) down() {
	if b.running == nil {
		return
	}
	b.running.Shutdown()
	b.running.WaitForShutdown()
	b.running = nil
}

// clients is how many connections the server knows of.
func (b *broker) clients() int {
	if b.running == nil {
		return 0
	}

	return b.running.NumClients()
}

// kick has the server close one of its connections, whatever is on it.
func (b *broker) kick() error {
	all, err := b.running.Connz(nil)
	if err != nil || len(all.Conns) == 0 {
		return err
	}
	_ = b.running.DisconnectClientByID(all.Conns[rand.IntN(len(all.Conns))].Cid) // or it has just ended by itself

	return nil
}
