module go.atomizer.io/plex/faulttest

go 1.25.0

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/emersion/go-smtp v0.25.1
	github.com/miekg/dns v1.1.72
	github.com/nats-io/nats-server/v2 v2.12.15
	github.com/nats-io/nats.go v1.53.1
	github.com/quic-go/quic-go v0.61.0
	github.com/stretchr/testify v1.12.1
	go.atomizer.io/plex v0.0.0
	golang.org/x/net v0.57.0
	pgregory.net/rapid v1.3.0
)

require (
	github.com/antithesishq/antithesis-sdk-go v0.7.2-default-no-op // indirect
	github.com/emersion/go-sasl v0.0.0-20241020182733-b788ff22d5a6 // indirect
	github.com/google/go-tpm v0.9.8 // indirect
	github.com/klauspost/compress v1.19.2 // indirect
	github.com/minio/highwayhash v1.0.4 // indirect
	github.com/nats-io/jwt/v2 v2.8.2 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	golang.org/x/crypto v0.55.0 // indirect
	golang.org/x/mod v0.37.0 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/time v0.15.0 // indirect
	golang.org/x/tools v0.47.0 // indirect
)

require (
	go.atomizer.io/plex/examples/dns v0.0.0
	go.atomizer.io/plex/examples/memcached v0.0.0
	go.atomizer.io/plex/examples/nats v0.0.0
	go.atomizer.io/plex/examples/quic v0.0.0
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)

replace go.atomizer.io/plex => ..

replace go.atomizer.io/plex/examples/memcached => ../examples/memcached

replace go.atomizer.io/plex/examples/dns => ../examples/dns

replace go.atomizer.io/plex/examples/nats => ../examples/nats

replace go.atomizer.io/plex/examples/quic => ../examples/quic
