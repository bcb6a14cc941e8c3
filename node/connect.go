package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/rs/zerolog"
)

// Connect returns the Manager for a data directory: of the server that has it, or, where none has, of the directory
// itself, which is then locked until the Manager is closed. admin is the path of the server's admin socket; empty means
// where the server says it is. mayCreate makes a data directory that is missing. Where a process has the directory but
// does not answer, the error wraps a *LockedError.
func Connect(ctx context.Context, dataDir, admin string, mayCreate bool, log zerolog.Logger) (Manager, error) {
	if dataDir == "" {
		dataDir = DefaultDataDir
	}
	dir, err := openDirectory(dataDir, "", mayCreate, log)
	if err == nil {
		return &offline{dir: dir, log: log}, nil
	}
	var locked *LockedError
	if !errors.As(err, &locked) {
		return nil, err
	}
	if admin == "" && locked.PID != 0 && locked.Admin == "" {
		return nil, fmt.Errorf("%w, which is another command; try again when it is done", err)
	}
	if admin == "" {
		admin = locked.Admin
	}
	if admin == "" {
		admin = filepath.Join(locked.Dir, adminSocketName)
	}
	r := NewRemote(admin)
	if _, e := r.Status(ctx); e != nil {
		return nil, fmt.Errorf("%w, which does not answer (--admin says where it does): %w", err, e)
	}
	return r, nil
}
