package attach

import (
	"testing"

	"lockstep/nbd"
)

func TestIdentity(t *testing.T) {
	for _, id := range []identity{
		{export: "disk0", volume: volumeA, slots: 4},
		{export: "", slots: 1},
		{export: "a b:c%/é\n", slots: 16},
	} {
		if got, err := parseIdentity(id.String()); err != nil || got != id {
			t.Errorf("%+v is %q, which is %+v, %v", id, id, got, err)
		}
	}
	for _, text := range []string{"", "lockstep", "nbd-client:d:-:1", "lockstep:d:-:0", "lockstep:d:-:17", "lockstep:d:-:1:2",
		"lockstep:d:-:+1", "lockstep:%:-:1", "lockstep:%41:-:1", "lockstep:d::1"} {
		if id, err := parseIdentity(text); err == nil {
			t.Errorf("%q is taken for ours: %+v", text, id)
		}
	}
}

func TestReadOffer(t *testing.T) {
	o := nbd.Offer{SizeBytes: 5, Flags: multiConn | flagReadOnly, PreferredBlockBytes: 512,
		Description: "lockstep volume uuid=" + volumeA + " instance=" + volumeB}
	want := export{sizeBytes: 5, flags: o.Flags, readOnly: true, multiConn: true, preferred: 512, volume: volumeA, instance: volumeB}
	if got := readOffer(o); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, d := range []string{"", "uuid=", "uuid=x instance=y", "xuuid=" + volumeA, "uuid= " + volumeA} {
		if got := readOffer(nbd.Offer{Description: d}); got != (export{}) {
			t.Errorf("%q: %+v", d, got)
		}
	}
}

func FuzzIdentity(f *testing.F) {
	f.Add("lockstep:d:-:1")
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := parseIdentity(text); err == nil && id.String() != text {
			t.Fatalf("%q is %+v, which is %q", text, id, id)
		}
	})
}
