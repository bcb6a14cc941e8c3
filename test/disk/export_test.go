package disk

// The drivers without testing.TB, so that a test can see them fail.

func (h History) Exhaust(seed uint64) (int, error)          { return h.exhaustive(seed) }
func (h History) Fault(seed uint64, err error) (int, error) { return h.faults(seed, err) }
func (h History) Live(seed uint64) error                    { return h.random(seed) }
