package main

import (
	"bufio"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// machine is where and when it was measured.
type machine struct {
	CPU     string
	Cores   int
	System  string
	Go      string
	Date    string
	Commit  string
	Load    string   // before the run
	Modules []module // and programs
}

type module struct{ Path, Version string }

func thisMachine() machine {
	m := machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), System: system(),
		Go:   runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		Date: time.Now().Format("2 January 2006"), Commit: commit(), Load: load(),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if slices.Contains(compared, d.Path) {
				m.Modules = append(m.Modules, module{d.Path, d.Version})
			}
		}
	}
	for _, p := range programs {
		if text, err := exec.Command(p[0], p[1]).Output(); err == nil {
			m.Modules = append(m.Modules, module{p[0], version.FindString(string(text))})
		}
	}
	return m
}

// compared are the modules that plex is compared with.
var compared = []string{
	"github.com/bradfitz/gomemcache", "github.com/jackc/puddle/v2", "github.com/jolestar/go-commons-pool/v2",
	"github.com/miekg/dns", "github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go",
	"github.com/redis/go-redis/v9", "github.com/redis/rueidis",
}

// programs are the servers that are used where they are installed, and how each is asked for its
// version.
var programs = [][2]string{{"memcached", "-V"}, {"redis-server", "--version"}}

var version = regexp.MustCompile(`[0-9]+(\.[0-9]+)+`)

// cpuModel is what the system calls the processor; "unknown" where it does
// not say.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	defer f.Close()
	var vendor, name, family, number string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "vendor_id":
			vendor = value
		case "model name":
			name = value
		case "cpu family":
			family = value
		case "model":
			number = value
		}
		if vendor != "" && name != "" && family != "" && number != "" {
			return name + " (" + vendor + ", family " + family + ", model " + number + ")"
		}
	}
	if name == "" {
		return "unknown processor"
	}
	return name
}

// system is the kernel and its release.
func system() string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return "Linux " + strings.TrimSpace(string(release))
}

// commit is what was measured, "" if git does not know.
func commit() string {
	id, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return ""
	}
	changed, err := exec.Command("git", "status", "--porcelain", "--untracked-files=no", "--", ":/*.go").Output()
	if err == nil && len(changed) > 0 {
		return strings.TrimSpace(string(id)) + " with changes"
	}
	return strings.TrimSpace(string(id))
}

// load is how many processes wanted to run over the last minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(text), " ")
	if _, err := strconv.ParseFloat(first, 64); err != nil {
		return ""
	}
	return first
}
