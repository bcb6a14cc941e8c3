package node

// Readiness says whether every volume that there is can be used.
type Readiness struct {
	Ready bool `json:"ready"`
	// Reason is why the server as a whole is not ready; empty where only volumes are the reason.
	Reason string `json:"reason,omitempty"`
	// Volumes are those that should be served and are not, or that take no more changes.
	Volumes []Unready `json:"volumes"`
}

// Unready is a volume that cannot be used.
type Unready struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Reason string `json:"reason"`
}

// readiness tells how the server is. A volume that is being made or deleted is nobody's yet, or any more.
func (m *monitor) readiness() Readiness {
	volumes, stopping := m.host.unready()
	r := Readiness{Volumes: volumes}
	switch {
	case stopping:
		r.Reason = "the server is stopping"
	case !m.started.Load():
		r.Reason = "the server is starting"
	}
	r.Ready = r.Reason == "" && len(volumes) == 0
	return r
}

// unready lists the volumes that cannot be used, by name.
func (h *host) unready() (volumes []Unready, stopping bool) {
	volumes = []Unready{}
	for _, d := range h.all() {
		h.mu.Lock()
		state, err := d.standingLocked()
		h.mu.Unlock()
		switch {
		case state == StateOpening:
			volumes = append(volumes, Unready{d.name, state, "its log is being replayed"})
		case state == StateFailed:
			volumes = append(volumes, Unready{d.name, state, err.Error()})
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return volumes, h.stopping
}

// standingLocked is the state that a disk is in for its users: one whose volume takes no more changes has failed. err is
// why it has. The host's mu is held.
func (d *disk) standingLocked() (state string, err error) {
	if d.state == StateServed {
		if err := d.volume.Err(); err != nil {
			return StateFailed, err
		}
	}
	return d.state, d.err
}

// standing is standingLocked, for one disk after the other.
func (h *host) standing(d *disk) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	state, _ := d.standingLocked()
	return state
}

// states are all that a volume of a running server can be in.
func states() []string {
	return []string{StateServed, StateFailed, StateOpening, StateCreating, StateDeleting}
}
