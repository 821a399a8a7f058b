package plexdebug

// How things are written. Addresses and errors are foreign code.

import (
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.atomizer.io/plex/internal/caller"
)

// mostText is how much is shown of an error or an address, in bytes.
const mostText = 1000

// addrText is an address; "" for none.
func addrText(addr net.Addr) string {
	if caller.IsNil(addr) {
		return ""
	}
	return guarded("the address's String", addr.String)
}

// errText is an error; "" for none.
func errText(err error) string {
	if caller.IsNil(err) {
		return ""
	}
	return guarded("the error's Error", err.Error)
}

func guarded(what string, f func() string) (s string) {
	if err := caller.Guard(what, func() error { s = f(); return nil }); err != nil {
		return what + " has panicked"
	}
	if len(s) <= mostText {
		return s
	}
	cut := mostText
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + " …"
}

// span is a duration in the two units that matter.
func span(d time.Duration) string {
	two := func(n time.Duration, big string, m time.Duration, small string) string {
		return fmt.Sprintf("%d %s %d %s", n, big, m, small)
	}
	switch d = max(d, 0); {
	case d < time.Microsecond:
		return strconv.FormatInt(int64(d), 10) + " ns"
	case d < time.Millisecond:
		return strconv.FormatInt(d.Microseconds(), 10) + " µs"
	case d < 10*time.Millisecond:
		return strconv.FormatFloat(float64(d.Microseconds())/1e3, 'f', 1, 64) + " ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(float64(d.Milliseconds()/100)/10, 'f', 1, 64) + " s"
	case d < time.Minute:
		return strconv.FormatInt(int64(d/time.Second), 10) + " s"
	case d < time.Hour:
		return two(d/time.Minute, "min", d%time.Minute/time.Second, "s")
	case d < 24*time.Hour:
		return two(d/time.Hour, "h", d%time.Hour/time.Minute, "min")
	}
	return two(d/(24*time.Hour), "d", d%(24*time.Hour)/time.Hour, "h")
}

// count is a number with a comma at each thousand.
func count[N int | uint64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	for at := len(s) - 3; at > 0 && s[at-1] != '-'; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}

// rate is a number per second.
func rate(perSecond float64) string {
	if perSecond < 10 {
		return strings.TrimSuffix(strconv.FormatFloat(perSecond, 'f', 1, 64), ".0")
	}
	return count(int(perSecond + 0.5))
}

// holder is the first function of a stack that is not of plex itself: who has taken a lease. If
// that was a goroutine of plex's own, it is what the goroutine runs.
func holder(stack string) (function string) {
	lines := strings.Split(strings.TrimSpace(stack), "\n")
	for i := 0; i < len(lines); i += 2 {
		if strings.HasPrefix(lines[i], "runtime.") {
			break
		}
		function = lines[i]
		if !isOfPlex(function) {
			break
		}
	}
	if function == "" {
		return ""
	}
	return path.Base(function)
}

func isOfPlex(function string) bool {
	for _, pkg := range []string{"plex.", "plex/message.", "plex/request.", "plex/internal/"} {
		if strings.HasPrefix(function, "go.atomizer.io/"+pkg) {
			return true
		}
	}
	return false
}
