package node

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"lockstep/backend"
	"lockstep/volume"
	"lockstep/wal"
)

// heldBase is a base image whose first resize waits.
type heldBase struct {
	*backend.Memory
	begun, goOn chan struct{}
}

func (b *heldBase) Resize(size int64) error {
	if b.begun != nil {
		close(b.begun)
		b.begun = nil
		<-b.goOn
	}
	return b.Memory.Resize(size)
}

// heldDisk is a disk in memory whose base image is held.
func heldDisk(t *testing.T, size int64) (*disk, *heldBase) {
	t.Helper()
	base := &heldBase{Memory: backend.NewMemory(volume.DataOffset + size)}
	cfg := volume.Config{Base: base, Meta: wal.NewMemoryDir(), Log: wal.NewMemoryDir(), Logger: zerolog.Nop()}
	geometry := volume.Geometry{ID: uuid.New(), SizeBytes: size, BlockSize: 4096, LogBudgetBytes: 64 << 20}
	if err := volume.Create(cfg, geometry); err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	d := newDisk(zerolog.Nop(), "v", StateServed)
	d.settings, d.volume = settings{Backend: KindThick}, v
	return d, base
}

// TestResizeIsDecidedInTurn: whether a resize shrinks the volume is decided by the size that the one before it left, not by
// the one that was there when it was asked for.
func TestResizeIsDecidedInTurn(t *testing.T) {
	d, base := heldDisk(t, 2<<20)
	begun := make(chan struct{})
	base.begun, base.goOn = begun, make(chan struct{})
	to4, to3 := make(chan error, 1), make(chan error, 1)
	resize := func(size int64, result chan<- error) {
		_, err := d.resize(t.Context(), nil, ResizeRequest{SizeBytes: size})
		result <- err
	}
	go resize(4<<20, to4)
	<-begun
	go resize(3<<20, to3)
	close(base.goOn)
	if err := <-to4; err != nil {
		t.Fatal(err)
	}
	if err := <-to3; !errors.Is(err, volume.ErrNeedsForce) {
		t.Errorf("volume of 4 MiB made one of %d without force: %v", d.volume.Size(), err)
	}
}

// cuttingSink does something after the first data.
type cuttingSink struct {
	bytes.Buffer
	then func()
}

func (s *cuttingSink) data(p []byte) error {
	s.Write(p)
	if s.then != nil {
		s.then()
		s.then = nil
	}
	return nil
}
func (s *cuttingSink) zeroes(n int64) error { s.Write(make([]byte, n)); return nil }
func (s *cuttingSink) end() error           { return nil }

// TestExportBesideResize: a copy of a volume whose size changes under it is none.
func TestExportBesideResize(t *testing.T) {
	for _, to := range []int64{512 << 10, 1 << 20, 16 << 20} {
		d, _ := heldDisk(t, 8<<20)
		c := []volume.Change{{Kind: volume.Write, Length: 8 << 20, Data: bytes.Repeat([]byte{7}, 8<<20)}}
		if d.volume.Apply(c); c[0].Err != nil {
			t.Fatal(c[0].Err)
		}
		s := &cuttingSink{then: func() {
			if _, err := d.volume.Resize(t.Context(), to, true); err != nil {
				t.Error(err)
			}
		}}
		if err := readVolume(t.Context(), d.volume, s); !errors.Is(err, ErrChanged) {
			t.Errorf("resized to %d bytes: %v", to, err)
		}
	}
}

// TestResizeRefusesSizes: a size that no volume can have is the request's fault, and nothing is made of it.
func TestResizeRefusesSizes(t *testing.T) {
	d, _ := heldDisk(t, 2<<20)
	for kind, size := range map[string]int64{KindFile: 1<<63 - 4096, KindMemory: 1 << 60} {
		d.settings.Backend = kind
		if _, err := d.resize(t.Context(), nil, ResizeRequest{SizeBytes: size}); httpCode(err) != 400 || d.volume.Size() != 2<<20 {
			t.Errorf("%s of %d bytes: code %d, %v", kind, size, httpCode(err), err)
		}
	}
	create := CreateRequest{Name: "v", Backend: KindMemory, SizeBytes: 1 << 60}
	if err := create.validate(); !errors.Is(err, ErrRequest) {
		t.Errorf("create: %v", err)
	}
}
