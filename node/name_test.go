package node

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"disk0", "0", "A.b_c-d", "x..y", strings.Repeat("n", 64)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q refused: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", ".hidden", "-force", "_x", "a/b", "a b", "a\n", "\nab", "ä", "a\x00b",
		strings.Repeat("n", 65)} {
		if err := CheckName(name); !errors.Is(err, ErrName) {
			t.Errorf("%q: got %v, want ErrName", name, err)
		}
	}
}
