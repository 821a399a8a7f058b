//go:build race

package message_test

// raceEnabled says that the race detector has pools drop things at random.
const raceEnabled = true
