package node

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"lockstep/nbd"
)

func TestDeviceTranslates(t *testing.T) {
	h, _ := openHost(t, emptyServerDir(t))
	d := h.find("first").device
	ones := bytes.Repeat([]byte{1}, 64<<10)
	batch := []nbd.Change{
		{Op: nbd.OpWrite, Offset: 0, Length: 64 << 10, Data: ones},
		{Op: nbd.OpTrim, Offset: 4096, Length: 4096},
		{Op: nbd.OpWriteZeroes, Offset: 16 << 10, Length: 4096},
		{Op: nbd.OpWriteZeroes, Offset: 32 << 10, Length: 4096, NoHole: true, FUA: true},
		{Op: nbd.OpWrite, Offset: testVolumeBytes, Length: 512, Data: ones[:512]},
	}
	d.Apply(batch)
	for i, c := range batch {
		if beyond := i == len(batch)-1; beyond != (c.Err != nil) || beyond && !errors.Is(c.Err, syscall.EINVAL) {
			t.Errorf("change %d: %v", i, c.Err)
		}
	}
	want := bytes.Clone(ones)
	for _, off := range []int{4096, 16 << 10, 32 << 10} {
		clear(want[off : off+4096])
	}
	got := make([]byte, len(want))
	if err := d.Read(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read something else: %v", err)
	}
	extents, err := d.Extents(0, 36<<10, 100)
	if err != nil {
		t.Fatal(err)
	}
	holes := map[int64]nbd.Extent{}
	off := int64(0)
	for _, e := range extents {
		holes[off] = e
		off += e.Length
	}
	if e := holes[4096]; !e.Zero || !e.Hole {
		t.Errorf("a trimmed range is %+v", e)
	}
	if e := holes[32<<10]; !e.Zero || e.Hole {
		t.Errorf("a zeroed range that stays allocated is %+v", e)
	}
	if s := h.find("first").volume.Stats(); s.Durable != s.Head {
		t.Errorf("durable up to %d of %d after FUA", s.Durable, s.Head)
	}
}

func BenchmarkDeviceApply(b *testing.B) {
	h, _ := openHost(b, emptyServerDir(b))
	d := h.find("first").device
	batch := []nbd.Change{{Op: nbd.OpWrite, Length: 4096, Data: make([]byte, 4096)}}
	for b.Loop() {
		d.Apply(batch)
	}
}
