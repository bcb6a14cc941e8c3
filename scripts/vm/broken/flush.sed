# file: wal/dirfile.go
# Flushes of the log are acknowledged and ignored.
s/return unix.Fdatasync(f.fd)/return nil/
