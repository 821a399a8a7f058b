// Package model holds tests that compare plex with simple models of what it should do.
//
//   - A state machine (machine_*_test.go): random sequences of everything that a consumer, a peer, a connector and time
//     can do to a pool, one after the other under fake time, after each of which every result, figure and transport is
//     what a sequential model says.
//   - Histories (history_test.go): what many goroutines did at the same time has to have an order in which a sequential
//     model could have done it.
//   - Fuzz tests (fuzz_*_test.go): programs of sends, receives and lease changes on one connection, of which every byte
//     has to come out once and in order, or be counted.
//
// Try harder with
//
//	go test ./model -rapid.checks=10000 -rapid.steps=100
//	go test ./model -run=NONE -fuzz=FuzzSending -fuzztime=1m
package model
