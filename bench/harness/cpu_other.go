//go:build !unix

package harness

import "time"

// CPUTime is the time since the process began, on systems where the processor time is not asked for.
func CPUTime() time.Duration { return time.Since(began) }
