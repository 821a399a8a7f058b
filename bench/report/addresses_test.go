package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"go.atomizer.io/plex/internal/pace/pacesim"
)

func TestTheSectionAboutAddressesIsWrittenAgainAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	r := &report{Machine: thisMachine(), Results: invented(t)[:1], Simulated: []*pacesim.Result{pacesim.Rolling(3, 5, 6, 1).Run(1)}}
	require.NoError(t, r.write(dir))
	text, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	require.NoError(t, err)
	written := string(text)
	assert.Contains(t, written, "| rolling restart | 3 | 5 | 6 |")
	assert.NotContains(t, written, "\n\n\n")
	svg, err := os.ReadFile(filepath.Join(dir, addressesFile))
	require.NoError(t, err)
	assertChart(t, string(svg))

	before, section, _ := strings.Cut(written, addressesBegin)
	section, _, _ = strings.Cut(section, addressesEnd)
	again := replaceAddresses(written+"the end\n", addressesBegin+"new\n"+addressesEnd)
	assert.NotContains(t, again, section)
	assert.Equal(t, before+addressesBegin+"new\n"+addressesEnd+"the end\n", again)

	first := replaceAddresses("page\n", addressesBegin+"new\n"+addressesEnd)
	assert.Equal(t, "page\n\n"+addressesBegin+"new\n"+addressesEnd, first)
}
