module go.atomizer.io/plex/examples/memcached

go 1.25.0

require (
	github.com/bradfitz/gomemcache v0.0.0-20260422231931-4d751bb6e37c
	github.com/stretchr/testify v1.12.1
	go.atomizer.io/plex v0.0.0
	go.atomizer.io/plex/faulttest v0.0.0
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect

replace (
	go.atomizer.io/plex => ../..
	go.atomizer.io/plex/faulttest => ../../faulttest
)
