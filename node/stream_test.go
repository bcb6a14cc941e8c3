package node

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// allocated returns how many bytes of space a file takes.
func allocated(t testing.TB, f *os.File) int64 {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

func TestStreamRoundTrip(t *testing.T) {
	want := pattern(8*chunkBytes+777, 1)
	var stream, got bytes.Buffer
	if err := copyContent(&rawReader{r: bytes.NewReader(want)}, streamWriter{&stream}); err != nil {
		t.Fatal(err)
	}
	if stream.Len() >= len(want) {
		t.Errorf("%d bytes became %d: zeroes are sent", len(want), stream.Len())
	}
	if err := copyContent(&streamReader{r: bytes.NewReader(stream.Bytes())}, rawWriter{&got}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("what came out differs")
	}
	for _, n := range []int{0, 3, streamHeaderBytes, stream.Len() / 2, stream.Len() - streamHeaderBytes, stream.Len() - 1} {
		cut := &streamReader{r: bytes.NewReader(stream.Bytes()[:n])}
		if err := copyContent(cut, rawWriter{io.Discard}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off at %d of %d: %v", n, stream.Len(), err)
		}
	}
}

func TestStreamTellsWhyItFailed(t *testing.T) {
	var stream bytes.Buffer
	w := streamWriter{&stream}
	if err := errors.Join(w.zeroes(5), w.fail(errors.New(strings.Repeat("disk on fire ", 1000)))); err != nil {
		t.Fatal(err)
	}
	err := copyContent(&streamReader{r: &stream}, rawWriter{io.Discard})
	if !errors.Is(err, ErrRemote) || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("got %v", err)
	}
}

func TestStreamGolden(t *testing.T) {
	var b bytes.Buffer
	w := streamWriter{&b}
	if err := errors.Join(w.data([]byte("hi")), w.zeroes(1<<40), w.end()); err != nil {
		t.Fatal(err)
	}
	want := "\x01\x00\x00\x00\x00\x00\x00\x02hi" + "\x02\x00\x01\x00\x00\x00\x00\x00" + "\x03\x00\x00\x00\x00\x00\x00\x00"
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func FuzzStreamReader(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x02hi\x03\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x04\x00\x00\x00\x00\x00\x00\x02hi"))
	f.Add([]byte("\x01\xff\xff\xff\xff\xff\xff\xff"))
	f.Add([]byte("\x04\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &streamReader{r: bytes.NewReader(b)}
		buf := make([]byte, chunkBytes)
		for {
			p, err := s.next(buf)
			if errors.Is(err, io.EOF) && !s.ended {
				t.Fatal("a stream without an end frame ended well")
			}
			if err != nil {
				return
			}
			if p.length <= 0 || p.data != nil && int64(len(p.data)) != p.length {
				t.Fatalf("piece of %d bytes with %d bytes of data", p.length, len(p.data))
			}
		}
	})
}

func TestFileReaderSkipsHoles(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 40 // a reader that reads its hole does not come back
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("end"), size-3); err != nil {
		t.Fatal(err)
	}
	from, n, err := NewSource(f)
	if err != nil || n != size {
		t.Fatalf("length %d, %v", n, err)
	}
	buf := make([]byte, chunkBytes)
	var total int64
	var last []byte
	for {
		p, err := from.next(buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		total += p.length
		last = p.data
	}
	if total != size || !bytes.HasSuffix(last, []byte("end")) {
		t.Errorf("%d of %d bytes, the last of them %q", total, int64(size), last)
	}
}

func TestSinkKeepsWhatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("head"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	to := NewSink(f)
	if err := errors.Join(to.zeroes(3), to.data([]byte("x")), to.end()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "head\x00\x00\x00x" {
		t.Errorf("got %q, %v", got, err)
	}
}
