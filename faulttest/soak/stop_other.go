//go:build !unix

package main

import (
	"context"
	"math/rand/v2"
)

const canStop = false

func (s *soak) stops(context.Context, *rand.Rand) {}
