module go.atomizer.io/plex/faulttest/streams

go 1.25.0

replace go.atomizer.io/plex => ../..

replace go.atomizer.io/plex/faulttest => ..

replace go.atomizer.io/plex/examples/memcached => ../../examples/memcached

replace go.atomizer.io/plex/examples/dns => ../../examples/dns

replace go.atomizer.io/plex/examples/nats => ../../examples/nats

replace go.atomizer.io/plex/examples/quic => ../../examples/quic

require (
	github.com/hashicorp/yamux v0.1.2
	github.com/stretchr/testify v1.12.1
	github.com/xtaci/smux v1.5.58
	go.atomizer.io/plex v0.0.0
	go.atomizer.io/plex/faulttest v0.0.0-00010101000000-000000000000
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect
