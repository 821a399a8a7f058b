package plex_test

// What the files of the project must say, beside the code: workflows, updates.

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// modulesHere are the directories of all modules, with slashes, the root's is ".".
func modulesHere(t *testing.T) (dirs []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata"):
			return fs.SkipDir
		case d.Name() == "go.mod":
			dirs = append(dirs, filepath.ToSlash(filepath.Dir(path)))
		}
		return nil
	}))
	require.Contains(t, dirs, ".")
	require.Contains(t, dirs, "tools")
	return dirs
}

func TestEveryModuleGetsUpdates(t *testing.T) {
	text, err := os.ReadFile(".github/dependabot.yml")
	require.NoError(t, err)
	for _, dir := range modulesHere(t) {
		if want := "      - /" + strings.TrimPrefix(dir, ".") + "\n"; !strings.Contains(string(text), want) {
			t.Errorf("dependabot.yml does not list the module in %s", dir)
		}
	}
}

// An action that is named by a tag may be another one tomorrow. A workflow that names no permissions may have all.
func TestWorkflowsNameCommitsAndPermissions(t *testing.T) {
	workflows, err := filepath.Glob(".github/workflows/*.yml")
	require.NoError(t, err)
	require.NotEmpty(t, workflows)
	uses := regexp.MustCompile(`(?m)^\s*(?:- )?uses: *(\S+)(.*)$`)
	pinned := regexp.MustCompile(`^[\w./-]+@[0-9a-f]{40}$`)
	for _, workflow := range workflows {
		text, err := os.ReadFile(workflow)
		require.NoError(t, err)
		if !strings.Contains(string(text), "\npermissions:\n  contents: read\n") {
			t.Errorf("%s does not begin with the permission to read, and no other", workflow)
		}
		for _, action := range uses.FindAllStringSubmatch(string(text), -1) {
			if !pinned.MatchString(action[1]) || !strings.HasPrefix(strings.TrimSpace(action[2]), "# v") {
				t.Errorf("%s uses %s%s: name the commit, and the version behind it", workflow, action[1], action[2])
			}
		}
	}
}
