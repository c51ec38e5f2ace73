package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/signet-iot/signet"
)

// LockFolder makes this process the only one that uses the data folder dir, until
// release or its end. It is refused with [signet.Unavailable] when another process
// has the folder.
func LockFolder(dir string) (release func(), err error) {
	// The file stays when the lock is gone: one that is removed can be locked by two,
	// each through its own name.
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		pid, _ := io.ReadAll(io.LimitReader(f, 20))
		_ = f.Close()
		return nil, signet.Refuse(signet.Unavailable, "The data folder %s is in use by process %s.", dir, strings.TrimSpace(string(pid))).
			FixBy("Stop that process, or use another data folder.")
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	return func() { _ = f.Close() }, nil
}
