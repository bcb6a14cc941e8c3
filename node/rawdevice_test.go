package node

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lockstep/volume"
)

const testDeviceBytes = 24 << 20

// loopDevice makes a block device of a file full of other things. It skips the test where that is not allowed.
func loopDevice(t *testing.T, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Skipf("no loop devices here: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", device).Run(); err != nil {
			t.Errorf("detach %s: %v", device, err)
		}
	})
	return device
}

func TestVolumeOnDevice(t *testing.T) {
	both(t, func(t *testing.T, m Manager, dir string) {
		foreign := bytes.Repeat([]byte("photographs "), testDeviceBytes/12)
		device := loopDevice(t, foreign)
		r := CreateRequest{Name: "raw", Backend: device, LogBytes: MinLogBytes}
		if _, err := m.Create(t.Context(), r); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "unknown non-zero data") {
			t.Fatalf("a device with data was taken: %v", err)
		}
		r.Force, r.SizeBytes = true, testDeviceBytes
		if _, err := m.Create(t.Context(), r); err == nil {
			t.Error("a volume and its header fit a device that is as large as the volume")
		}
		r.SizeBytes = 0
		s, err := m.Create(t.Context(), r)
		if want := int64(len(foreign)/512*512-volume.DataOffset) / 4096 * 4096; err != nil || s.SizeBytes != want || s.Device != device {
			t.Fatalf("made %+v, %v; want %d bytes", s, err, want)
		}
		if got := content(t, m, "raw"); !allZero(got) {
			t.Error("what was on the device before shows in the volume")
		}
		r.Name = "same"
		if _, err := m.Create(t.Context(), r); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "volume raw") {
			t.Errorf("two volumes on one device: %v", err)
		}
		if err := m.Delete(t.Context(), "raw", false); err != nil {
			t.Fatal(err)
		}
		head, err := os.ReadFile(device)
		if err != nil || !allZero(head[:volume.DataOffset]) {
			t.Errorf("the header is still there after deletion: %v", err)
		}
		r.Force = false
		if _, err := m.Create(t.Context(), r); err != nil {
			t.Errorf("the device is not free after deletion: %v", err)
		}
	})
}

func TestDeletionWipesNoOtherVolume(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	device := loopDevice(t, make([]byte, testDeviceBytes))
	m, done := manage(t, dir)
	create(t, m, CreateRequest{Name: "old", Backend: device})
	settings := filepath.Join(dir, volumesName, "old", settingsName)
	kept, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Delete(t.Context(), "old", false); err != nil {
		t.Fatal(err)
	}
	create(t, m, CreateRequest{Name: "new", Backend: device})
	// A leftover of the old volume names the device that is the new one's by now.
	leftover := filepath.Join(dir, volumesName, ".old.deleting-x")
	if err := os.Mkdir(leftover, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(leftover, settingsName), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	done()
	m, _ = manage(t, dir)
	if _, err := os.Lstat(leftover); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the leftover is still there: %v", err)
	}
	if got := names(t, m); got != "new stopped" {
		t.Errorf("volumes: %s", got)
	}
	content(t, m, "new") // opens it
}

func TestMissingDeviceStopsNoOther(t *testing.T) {
	dir := emptyServerDir(t)
	device := loopDevice(t, make([]byte, testDeviceBytes))
	link := filepath.Join(t.TempDir(), "disk")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	m, done := manage(t, dir)
	create(t, m, CreateRequest{Name: "raw", Backend: link})
	done()
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	start(t, dir, nil)
	m, _ = manage(t, dir)
	if got := names(t, m); got != "first served, raw failed" {
		t.Errorf("volumes: %s", got)
	}
	if err := m.Delete(t.Context(), "raw", false); err != nil {
		t.Errorf("a volume whose device is gone cannot be deleted: %v", err)
	}
}
