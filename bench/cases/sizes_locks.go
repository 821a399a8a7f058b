package cases

// For how long the lock of a multiplexer is held at most. That takes a build of its own, see
// lock_timed_linux.go: the core pays nothing for it otherwise.

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"go.atomizer.io/plex/bench/harness"
	"go.atomizer.io/plex/bench/pools"
)

// LocksTag is the build tag, and LocksPackage what is built with it.
const (
	LocksTag     = "plexlocktime"
	LocksPackage = "go.atomizer.io/plex/bench/locks"
)

// AnyHold is the figure for the longest hold of all.
const AnyHold = "any"

// longestHold is a target: the time in which nobody else gets the lock, whatever is done to all
// connections of the largest pool.
const longestHold = 1e6 // ns

// Locked are the operations that are measured: those in which many connections change.
func Locked() []Mass {
	without := []string{"leaks", "duplex", "parked", "named"}
	return slices.DeleteFunc(slices.Clone(MassOperations), func(m Mass) bool { return slices.Contains(without, m.Name) })
}

func lockCases() []*harness.Case {
	if runtime.GOOS != "linux" {
		return nil // nobody knows the time of a thread there
	}
	return []*harness.Case{Locks(50_000, 5_000)}
}

// Locks compares how long the lock is held at most in pools of two sizes.
func Locks(large, small int) *harness.Case {
	c := &harness.Case{
		Group: GroupSizes,
		Name:  "sizes/locks",
		Title: "longest hold of the lock",
		Compares: fmt.Sprintf("the processor time of the longest hold of the multiplexer's lock, with %s connections (or callers who wait) and with %s, in each of the steps above",
			harness.Thousands(large), harness.Thousands(small)),
		Metrics: []harness.Metric{{Key: AnyHold, Title: "in any step", Unit: harness.Nanoseconds}},
		Targets: []harness.Target{harness.Below(longestHold, AnyHold)},
		Ops:     1,
		Rounds:  1,
	}
	for _, m := range Locked() {
		for _, step := range m.Steps {
			c.Metrics = append(c.Metrics, harness.Metric{Key: step.Key, Title: step.Title, Unit: harness.Nanoseconds})
		}
	}
	for i, n := range []int{large, small} {
		name := harness.Thousands(n)
		if i == 0 {
			name = pools.Plex.Name
		}
		c.Subjects = append(c.Subjects, harness.Subject{Name: name, Open: func() (harness.Work, error) { return openLocks(n) }})
	}
	return c
}

// openLocks builds the program that measures.
func openLocks(n int) (harness.Work, error) {
	dir, err := os.MkdirTemp("", "plex-locks-")
	if err != nil {
		return harness.Work{}, err
	}
	program := filepath.Join(dir, "locks")
	if out, err := exec.Command("go", "build", "-tags", LocksTag, "-o", program, LocksPackage).CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir) // the error of the build says more
		return harness.Work{}, fmt.Errorf("building %s: %w\n%s", LocksPackage, err, out)
	}
	return harness.Work{
		Run: func(int) (harness.Sample, error) {
			run := exec.Command(program, "-n", strconv.Itoa(n))
			run.Stderr = os.Stderr
			out, err := run.Output()
			if err != nil {
				return harness.Sample{}, err
			}
			figures := make(map[string]float64)
			if err := json.Unmarshal(out, &figures); err != nil {
				return harness.Sample{}, err
			}
			for _, v := range figures {
				figures[AnyHold] = max(figures[AnyHold], v)
			}
			return harness.Sample{Figures: figures}, nil
		},
		Close: func() { _ = os.RemoveAll(dir) }, // the system clears it away otherwise
	}, nil
}
