package wal

// EncodeRecord returns a record's bytes.
func EncodeRecord(r Record) []byte { return encodeRecord(r) }
