package node

import (
	"errors"
	"fmt"
	"regexp"
)

// ErrName is returned for a volume name that is not allowed.
var ErrName = errors.New("not a volume name")

// maxNameBytes is short enough for every file name that is made of a name, and for an NBD export name.
const maxNameBytes = 64

// CheckName returns an error that wraps ErrName unless name starts with a letter or digit, goes on with letters,
// digits, dots, underscores and hyphens, and is at most 64 bytes long. So a name is never a hidden file, a path or an
// option, and names with a leading dot are free for what is being created or deleted.
func CheckName(name string) error {
	if len(name) > maxNameBytes {
		return fmt.Errorf("%w: %q is %d bytes long, at most %d are allowed", ErrName, name, len(name), maxNameBytes)
	}
	if ok, _ := regexp.MatchString(`^[A-Za-z0-9][A-Za-z0-9._-]*$`, name); !ok {
		return fmt.Errorf("%w: %q; a name starts with a letter or digit and goes on with letters, digits, '.', '_' and '-'",
			ErrName, name)
	}
	return nil
}
