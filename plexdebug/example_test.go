package plexdebug_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/plexdebug"
)

func Example() {
	var orders, sessions *plex.Multiplexer // of plex.New

	// Where only those come who run the program. The page is at /debug/plex/.
	http.Handle("/debug/plex/", plexdebug.Handler(orders, sessions))
	go func() { _ = http.ListenAndServe("localhost:6060", nil) }()
}

// A page with a title and buttons, for those who know the password.
func ExamplePage() {
	var mux *plex.Multiplexer // of plex.New

	page := plexdebug.Page{Title: "checkout", Pools: []*plex.Multiplexer{mux}, AllowActions: true}.Handler()
	http.HandleFunc("/debug/plex/", func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "secret" {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		page.ServeHTTP(w, r)
	})
}

// The figures, for programs.
func ExampleHandler() {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // in place of a service
	if err != nil {
		fmt.Println(err)
		return
	}
	defer listener.Close()
	mux, err := plex.New(context.Background(), plex.WithName("orders"),
		plex.WithConnector(plex.Dial("tcp", listener.Addr().String())), plex.WithMinConnections(2))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mux.Close()

	server := httptest.NewServer(plexdebug.Handler(mux))
	defer server.Close()
	answer, err := http.Get(server.URL + "/debug/plex/stats.json")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer answer.Body.Close()
	var figures struct {
		Pools []struct {
			Name           string
			Open, Capacity int
		}
	}
	if err := json.NewDecoder(answer.Body).Decode(&figures); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%+v\n", figures.Pools)
	// Output: [{Name:orders Open:2 Capacity:2}]
}
