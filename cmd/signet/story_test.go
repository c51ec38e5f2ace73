package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var (
	storyBlock = regexp.MustCompile(`^<!-- story ([a-z-]+) -->$`)
	storyLine  = regexp.MustCompile(`^<!-- story ([a-z-]+): (.*) -->$`)
)

// stories reads the transcripts of docs/operating.md into scripts. A transcript is
// the block of code below a line <!-- story NAME -->: commands after "$ ", and what
// they print, in which "…" stands for anything and blanks for any number of them. A
// line <!-- story NAME: SCRIPT --> is played between, and not shown. What comes
// before is in testdata/story/NAME.txtar.
func stories(text string) map[string]string {
	scripts := map[string]string{}
	inside, begins := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := storyLine.FindStringSubmatch(line); m != nil {
			scripts[m[1]] += m[2] + "\n"
		}
		switch m := storyBlock.FindStringSubmatch(line); {
		case m != nil:
			begins = m[1]
		case begins != "" && strings.HasPrefix(line, "```"):
			inside, begins = begins, ""
		case strings.HasPrefix(line, "```"):
			inside = ""
		case inside == "":
		case strings.HasPrefix(line, "$ "):
			scripts[inside] += "exec " + line[2:] + "\n"
		case strings.TrimSpace(line) != "" && line != "…":
			scripts[inside] += "stdout '" + pattern(line) + "'\n"
		}
	}
	return scripts
}

var blanks = regexp.MustCompile(` +`)

// pattern fits a line that is as the transcript's.
func pattern(line string) string {
	p := regexp.QuoteMeta(strings.TrimRight(line, " "))
	p = strings.ReplaceAll(blanks.ReplaceAllString(p, " +"), "…", ".*")
	return "^" + strings.ReplaceAll(p, "'", "''") + "$"
}

// TestStories plays the stories of docs/operating.md, each against a hub of its
// own.
func TestStories(t *testing.T) {
	text, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	scripts := stories(string(text))
	if len(scripts) == 0 {
		t.Fatal("there are no stories")
	}
	var files []string
	dir := t.TempDir()
	for name, script := range scripts {
		before, err := os.ReadFile(filepath.Join("testdata/story", name+".txtar"))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name+".txtar")
		if err := os.WriteFile(file, fmt.Appendf(nil, "%s\n%s", before, script), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	p := hubScripts(t)
	p.Files = files
	testscript.Run(t, p)
}
