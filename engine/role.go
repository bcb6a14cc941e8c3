package engine

// Role is what a node does for a volume.
type Role string

// The roles.
const (
	RoleNone    Role = ""
	RolePrimary Role = "primary"
	RoleReplica Role = "replica"
)

// rank orders roles: within one epoch a node may only step down.
func (r Role) rank() int {
	switch r {
	case RolePrimary:
		return 2
	case RoleReplica:
		return 1
	default:
		return 0
	}
}

func (r Role) known() bool { return r == RoleNone || r == RolePrimary || r == RoleReplica }

// String returns the role in a word.
func (r Role) String() string {
	if r == RoleNone {
		return "none"
	}
	return string(r)
}
