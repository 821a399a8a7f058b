module go.atomizer.io/plex/examples/redis

go 1.25.0

require (
	github.com/stretchr/testify v1.12.1
	go.atomizer.io/plex v0.0.0
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect

replace go.atomizer.io/plex => ../..
