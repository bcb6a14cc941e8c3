package volume

import (
	"bytes"
	"testing"
	"testing/synctest"
)

// TestL8ReaderKeepsItsSegment: a reader has found a block in the log, and before it reads, a checkpoint moves the block
// to the base image and the log goes round. The reader's segment is not recycled; writers wait for it, and go on.
func TestL8ReaderKeepsItsSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _, log := memoryConfig(1 << 20)
		v := openMemory(t, cfg, 1<<20, 4096, 128<<10)
		mustApply(t, v, filled(0, 4096, 'o'))
		release, read := make(chan bool), make(chan []byte, 1)
		held := false
		log.onRead = func(string, int64) {
			if !held {
				held = true
				<-release
			}
		}
		go func() {
			p := make([]byte, 4096)
			if err := v.Read(p, 0); err != nil {
				t.Error(err)
			}
			read <- p
		}()
		synctest.Wait() // the reader has its place, and waits before it reads
		wrote := make(chan int, 1)
		go func() {
			n := 0
			for ; n < 40; n++ {
				if err := applyOne(v, filled(0, 32<<10, 'n')); err != nil {
					t.Error(err)
				}
			}
			wrote <- n
		}()
		synctest.Wait()
		if st := v.Stats(); st.Checkpoint == 0 || !held {
			t.Errorf("checkpoint %d, held: %v: this proves nothing", st.Checkpoint, held)
		}
		close(release)
		if p := <-read; !bytes.Equal(p, bytes.Repeat([]byte{'o'}, 4096)) {
			t.Errorf("read %q…, which is not what the block held", p[:8])
		}
		<-wrote
		if p := mustRead(t, v, 0, 4096); p[0] != 'n' {
			t.Errorf("read %q… afterwards", p[:8])
		}
	})
}
