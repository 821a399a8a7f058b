module go.atomizer.io/plex/examples/quic

go 1.25.0

require (
	github.com/quic-go/quic-go v0.61.0
	github.com/stretchr/testify v1.12.1
	go.atomizer.io/plex v0.0.0
)

require (
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/crypto v0.54.0 // indirect
	golang.org/x/net v0.56.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
)

replace go.atomizer.io/plex => ../..
