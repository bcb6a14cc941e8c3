package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"lockstep/nbd"
)

// world is a kernel, a network and its servers without any of them. It checks at each step what must always hold.
type world struct {
	t  *testing.T
	mu sync.Mutex // guards all that follows, and everything reached from it

	devices map[int]*fakeDevice
	watches map[int]chan struct{}
	servers map[Address]*fakeServer
	dials   int
	asks    int
	lives   int // servers started so far

	deaf       bool  // nobody is told when a link dies
	slow       int   // so many calls of Replace find no dead slot yet
	busy       int   // so many calls of Attach find the device open
	refuseSize error // what Resize returns
	resizes    int
}

type fakeDevice struct {
	Device
	setup Setup
	slots []*fakeLink
	users []string
}

// fakeServer is one life of a server.
type fakeServer struct {
	w     *world
	offer nbd.Offer
	hangs bool
	dead  bool
	links []*fakeLink
}

type fakeLink struct {
	w      *world
	server *fakeServer
	told   int64 // size of the export when it was made, which is all that the server lets it see
	dead   bool
	cut    bool
	closed bool
	taken  bool
}

func newWorld(t *testing.T) *world {
	return &world{t: t, devices: map[int]*fakeDevice{}, watches: map[int]chan struct{}{}, servers: map[Address]*fakeServer{}}
}

var (
	here  = Address{"unix", "/here"}
	there = Address{"tcp", "there:10809"}
)

const (
	volumeA = "11111111-1111-4111-8111-111111111111"
	volumeB = "22222222-2222-4222-8222-222222222222"
)

// Transmission flags of the protocol.
const (
	hasFlags  uint16 = 1 << 0
	sendFlush uint16 = 1 << 2
	multiConn uint16 = 1 << 8
)

// serve starts a server that has a volume, as a new instance.
func (w *world) serve(a Address, volume string, sizeBytes int64, flags uint16) *fakeServer {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lives++
	s := &fakeServer{w: w, offer: nbd.Offer{SizeBytes: sizeBytes, Flags: flags | hasFlags | sendFlush, PreferredBlockBytes: 4096}}
	s.offer.Description = fmt.Sprintf("lockstep volume uuid=%s instance=33333333-3333-4333-8333-%012d", volume, w.lives)
	w.servers[a] = s
	return s
}

// kill ends the server at an address, with all links to it.
func (w *world) kill(a Address) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.servers[a]; s != nil {
		delete(w.servers, a)
		s.dead = true
		for _, l := range s.links {
			w.dieLocked(l)
		}
	}
}

// leave takes a server off its address without ending the links to it.
func (w *world) leave(a Address) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.servers, a)
}

func (w *world) dieLocked(l *fakeLink) {
	if l.dead {
		return
	}
	l.dead = true
	for index, d := range w.devices {
		if slices.Contains(d.slots, l) && w.watches[index] != nil && !w.deaf {
			select {
			case w.watches[index] <- struct{}{}:
			default:
			}
		}
	}
}

// dieOne ends one link of a device.
func (w *world) dieOne(index, slot int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dieLocked(w.devices[index].slots[slot])
}

func (w *world) grow(a Address, sizeBytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.servers[a]; s != nil {
		s.offer.SizeBytes = sizeBytes
	}
}

// live counts the links of a device that are alive, all of them to the server at a.
func (w *world) live(index int, a Address) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, l := range w.devices[index].slots {
		if !l.dead && l.server == w.servers[a] {
			n++
		}
	}
	return n
}

func (w *world) use(index int, users ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devices[index].users = users
}

func (w *world) device(index int) Device {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.devices[index]; d != nil {
		return d.Device
	}
	return Device{}
}

// put adds a device that somebody else attached.
func (w *world) put(index int, backend string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devices[index] = &fakeDevice{Device: Device{Attached: true, Backend: backend, PID: 77, SizeBytes: 1 << 20}}
}

// add adds a free device.
func (w *world) add(index int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devices[index] = &fakeDevice{}
}

// set changes something of the world.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) count(what *int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return *what
}

// checkLocked fails where the device's links break an invariant of doc.go.
func (w *world) checkLocked(d *fakeDevice) {
	var first *fakeLink
	for _, l := range d.slots {
		if l.dead {
			continue
		}
		id, _ := parseIdentity(d.Backend)
		if e := readOffer(l.server.offer); e.volume != id.volume {
			w.t.Errorf("the device has volume %s, and got a link to %s", id.volume, e.volume)
		} else if l.told < d.SizeBytes {
			w.t.Errorf("the device has %d bytes, and got a link to %d", d.SizeBytes, l.told)
		} else if e.readOnly && !d.ReadOnly {
			w.t.Error("the device takes changes, and got a link to an export that does not")
		}
		if first != nil && l.server != first.server {
			w.t.Error("links to two servers are alive at once")
		}
		first = l
	}
}

func (w *world) Indexes() ([]int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []int
	for index := range w.devices {
		list = append(list, index)
	}
	slices.Sort(list)
	return list, nil
}

func (w *world) Device(index int) (Device, error) { return w.device(index), nil }

func (w *world) Watch(index int) (<-chan struct{}, func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watches[index] != nil {
		w.t.Errorf("device %d is watched twice", index)
	}
	deaths := make(chan struct{}, 1)
	w.watches[index] = deaths
	return deaths, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.watches, index)
	}, nil
}

func (w *world) Attach(index int, s Setup, links []Link) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy > 0 {
		w.busy--
		return fmt.Errorf("fake: %w", ErrInUse)
	}
	if d := w.devices[index]; d != nil && d.Attached {
		return fmt.Errorf("fake: %w", ErrInUse)
	}
	d := &fakeDevice{setup: s, Device: Device{Attached: true, Backend: s.Backend, PID: 1, SizeBytes: s.SizeBytes, ReadOnly: s.Flags&flagReadOnly != 0}}
	for _, l := range links {
		l := l.(*fakeLink)
		l.taken = true
		d.slots = append(d.slots, l)
	}
	w.devices[index] = d
	w.checkLocked(d)
	return nil
}

var errNotConfigured = errors.New("fake: not configured")

func (w *world) Replace(index int, s Setup, links []Link) ([]bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.devices[index]
	if d == nil || !d.Attached || d.Backend != s.Backend {
		return nil, errNotConfigured
	}
	taken := make([]bool, len(links))
	if w.slow > 0 {
		w.slow--
		return taken, nil
	}
	for i, l := range links {
		slot := slices.IndexFunc(d.slots, func(l *fakeLink) bool { return l.dead })
		if slot < 0 {
			break
		}
		l := l.(*fakeLink)
		if l.closed {
			w.t.Error("the kernel got a closed link")
		}
		taken[i], l.taken, d.slots[slot] = true, true, l
	}
	w.checkLocked(d)
	return taken, nil
}

func (w *world) Resize(index int, backend string, sizeBytes int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resizes++
	d := w.devices[index]
	if !d.Attached || d.Backend != backend {
		return errNotConfigured
	}
	if sizeBytes < d.SizeBytes {
		w.t.Errorf("the device shrinks from %d to %d", d.SizeBytes, sizeBytes)
	}
	for _, l := range d.slots {
		if !l.dead && l.told < sizeBytes {
			w.t.Errorf("the device grows to %d, and has a link that knows %d only", sizeBytes, l.told)
		}
	}
	if w.refuseSize == nil {
		d.SizeBytes = sizeBytes
	}
	return w.refuseSize
}

func (w *world) Users(index int) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.devices[index].users, nil
}

func (w *world) Release(index int, _ bool) ([]string, error) {
	users, _ := w.Users(index)
	if len(users) > 0 {
		return users, nil
	}
	return nil, w.Detach(index)
}

func (w *world) Detach(index int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.devices[index]
	w.devices[index] = &fakeDevice{users: d.users}
	for _, l := range d.slots {
		l.dead = true
	}
	return nil
}

func (w *world) reach(ctx context.Context, a Address, count *int) (*fakeServer, error) {
	w.mu.Lock()
	*count++
	s := w.servers[a]
	hangs := s != nil && s.hangs
	w.mu.Unlock()
	switch {
	case s == nil:
		return nil, fmt.Errorf("fake: nobody is at %v", a)
	case hangs:
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return s, nil
}

func (w *world) Dial(ctx context.Context, a Address, _ string) (Link, nbd.Offer, error) {
	s, err := w.reach(ctx, a, &w.dials)
	if err != nil {
		return nil, nbd.Offer{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.dead { // since it was reached
		return nil, nbd.Offer{}, fmt.Errorf("fake: connection to %v reset", a)
	}
	l := &fakeLink{w: w, server: s, told: s.offer.SizeBytes}
	s.links = append(s.links, l)
	return l, s.offer, nil
}

func (w *world) Ask(ctx context.Context, a Address, _ string) (nbd.Offer, error) {
	s, err := w.reach(ctx, a, &w.asks)
	if err != nil {
		return nbd.Offer{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.offer, nil
}

func (l *fakeLink) FD() int { return 3 }

func (l *fakeLink) Alive() bool {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return !l.dead
}

func (l *fakeLink) Cut() {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	l.cut = true
	l.w.dieLocked(l)
}

func (l *fakeLink) Close() {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	if l.closed {
		l.w.t.Error("a link was closed twice")
	}
	l.closed = true
	if !l.taken {
		l.w.dieLocked(l)
	}
}

// open counts the links that neither the supervisor has closed nor the kernel has taken.
func (w *world) open() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, s := range w.servers {
		for _, l := range s.links {
			if !l.closed && !l.taken {
				n++
			}
		}
	}
	return n
}
