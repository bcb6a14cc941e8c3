package wal

// FormatVersions returns the versions of the formats on disk that this program writes, by name.
func FormatVersions() map[string]int {
	return map[string]int{"log segment": segmentVersion, "log frame": frameVersion, "log record": recordVersion}
}
