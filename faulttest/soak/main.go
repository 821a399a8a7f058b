package main

import "go.atomizer.io/plex/faulttest/scaffold"

const program = "./soak"

func main() { scaffold.Main(scaffold.Options{Program: program}, nil, run) }
