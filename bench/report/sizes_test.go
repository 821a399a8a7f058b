package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheSectionAboutManyCoresGoesByWhatWasMeasured(t *testing.T) {
	dir := t.TempDir()
	r := &report{Machine: thisMachine(), Results: invented(t)}
	require.NoError(t, r.write(dir))
	text, err := os.ReadFile(filepath.Join(dir, "benchmarks.md"))
	require.NoError(t, err)
	page := string(text)
	assert.Contains(t, page, "## More than eight cores")
	assert.Contains(t, page, "- 100 ns for an acquire and close on one core, 100 ns when cores compete;")
	assert.NotContains(t, page, "%!")
	assert.NotContains(t, page, "\n\n\n")
	rows := strings.Count(page, " × |")
	assert.Positive(t, rows)

	r.Results = r.Results[:1]
	assert.Empty(t, r.shards(), "nothing to go by")
}
