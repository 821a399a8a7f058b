package shards

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const leases = 20_000

// model is one with many callers for few connections.
func model(processors int) Model {
	return Model{
		Processors: processors, Workers: 8, Connections: 2 * processors, Use: 500 * time.Nanosecond,
		Local: 15 * time.Nanosecond, Moved: 50 * time.Nanosecond,
	}
}

func TestOneQueueServesFirstComeFirstServed(t *testing.T) {
	for _, processors := range []int{1, 2, 8, 32} {
		r := model(processors).Run(leases)
		assert.Zero(t, r.Overtaken)
		assert.GreaterOrEqual(t, r.Leases, leases)
	}
}

func TestOneQueueIsALimitThatShardsAreNot(t *testing.T) {
	one, four := model(4), model(64)
	limit := 1 / (2 * one.Moved).Seconds()
	assert.Less(t, one.Run(leases).PerSecond(), 0.9*limit, "four processors do not reach it")
	assert.InEpsilon(t, limit, four.Run(leases).PerSecond(), 0.1, "64 would go beyond it")
	four.Sharded, four.Oldest = true, 16
	assert.Greater(t, four.Run(leases).PerSecond(), 3*limit)
}

func TestWithOneProcessorThereIsNothingToGain(t *testing.T) {
	m := model(1)
	one := m.Run(leases)
	m.Sharded, m.Oldest = true, 16
	assert.Equal(t, one, m.Run(leases))
	assert.InEpsilon(t, 1/(m.Use+2*m.Local).Seconds(), one.PerSecond(), 0.05)
}

func TestNobodyIsOvertakenMoreOftenThanTheBoundSays(t *testing.T) {
	for _, processors := range []int{2, 8, 32} {
		for _, oldest := range []int{1, 2, 16, 64} {
			for _, connections := range []int{1, processors, 4 * processors} {
				m := model(processors)
				m.Sharded, m.Oldest, m.Connections = true, oldest, connections
				r := m.Run(leases)
				assert.LessOrEqual(t, r.BeyondMost, 0, "%+v: %+v", m, r)
				if oldest == 1 {
					assert.Zero(t, r.Overtaken, "each release goes to the caller who has waited longest")
				}
			}
		}
	}
}

func TestWithoutTheRuleNothingBoundsIt(t *testing.T) {
	m := model(8)
	m.Sharded, m.Workers, m.Connections = true, 64, 4 // some queues have none
	short, long := m.Run(leases), m.Run(4*leases)
	assert.Positive(t, short.Overtaken)
	assert.Greater(t, long.Overtaken, 3*short.Overtaken)
}

func TestARunIsTheSameEachTime(t *testing.T) {
	m := model(16)
	m.Sharded, m.Oldest = true, 16
	assert.Equal(t, m.Run(leases), m.Run(leases))
}
