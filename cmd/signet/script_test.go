package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary the program itself when a script runs signet.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"signet": main})
}

// TestScript plays the stories in testdata/script: what a user types, and what
// comes back.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			// No story shall reach a hub of the machine it happens to run on.
			for _, name := range []string{"SIGNET_CONNECTION_STRING", "SIGNET_TOKEN", "SIGNET_CA_FILE"} {
				env.Setenv(name, "")
			}
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command of a -race build waits a second to end
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"mode": checkMode,
		},
		Condition: func(cond string) (bool, error) {
			_, err := exec.LookPath(cond)
			return err == nil, nil
		},
	})
}

// checkMode is the script command "mode 600 FILE".
func checkMode(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 || neg {
		ts.Fatalf("usage: mode OCTAL FILE")
	}
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := info.Mode().Perm().String(); got != permissions[args[0]] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

var permissions = map[string]string{"600": "-rw-------", "644": "-rw-r--r--"}
