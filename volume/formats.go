package volume

// FormatVersions returns the versions of the formats on disk that this program writes, by name.
func FormatVersions() map[string]int {
	return map[string]int{"superblock": superblockVersion, "change map": mapVersion}
}
