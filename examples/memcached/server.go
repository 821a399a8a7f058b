package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
)

// startServer starts as much of memcached as the example needs. It trusts its client, and breaks each connection after
// 5000 commands, whatever is under way on it.
func startServer() (address string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	items := new(sync.Map)
	go func() {
		for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
			go serve(conn, items)
		}
	}()
	return listener.Addr().String(), nil
}

func serve(conn net.Conn, items *sync.Map) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for range 5000 {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line) // such as: ms key 5 O17 T3600; mg key O18 v; md key O19
		value, found := items.Load(words[1])
		reply := "HD " + words[2]
		switch {
		case words[0] == "ms":
			size, _ := strconv.Atoi(words[2])
			bytes := make([]byte, size+len("\r\n"))
			if _, err := io.ReadFull(in, bytes); err != nil {
				return
			}
			items.Store(words[1], string(bytes[:size]))
			reply = "HD " + words[3]
		case words[0] == "mg" && found:
			reply = fmt.Sprintf("VA %d %s\r\n%s", len(value.(string)), words[2], value)
		case found:
			items.Delete(words[1])
		default:
			reply = map[string]string{"mg": "EN ", "md": "NF "}[words[0]] + words[2]
		}
		fmt.Fprintf(conn, "%s\r\n", reply)
	}
}
