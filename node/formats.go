package node

import (
	"maps"

	"lockstep/volume"
	"lockstep/wal"
)

// FormatVersions returns the versions of all formats on disk that this program writes, by name.
func FormatVersions() map[string]int {
	all := map[string]int{"node.json": identityVersion, "volume.json": settingsVersion}
	maps.Copy(all, volume.FormatVersions())
	maps.Copy(all, wal.FormatVersions())
	return all
}
