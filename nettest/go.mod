module go.atomizer.io/plex/nettest

go 1.25.0

require (
	go.atomizer.io/plex v0.0.0
	golang.org/x/net v0.50.0
)

replace go.atomizer.io/plex => ..
