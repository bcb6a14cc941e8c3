package attach

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"lockstep/nbd"
)

// identity is what an attached device is kept to. The kernel keeps it as the device's backend identifier:
//
//	lockstep:NAME:UUID:SLOTS
//
// NAME is escaped as in a URL; UUID is "-" where the server is not lockstep and says none.
type identity struct {
	export string
	volume string // UUID, or ""
	slots  int    // connections that the device was attached with
}

const identityMark = "lockstep"

var errIdentity = errors.New("not attached by lockstep")

func (id identity) String() string {
	volume := id.volume
	if volume == "" {
		volume = "-"
	}
	return fmt.Sprintf("%s:%s:%s:%d", identityMark, url.QueryEscape(id.export), volume, id.slots)
}

// parseIdentity is the inverse of String; errIdentity means that somebody else attached the device.
func parseIdentity(text string) (identity, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 4 || parts[0] != identityMark {
		return identity{}, errIdentity
	}
	export, err := url.QueryUnescape(parts[1])
	if err != nil {
		return identity{}, errIdentity
	}
	slots, err := strconv.Atoi(parts[3])
	if err != nil || slots < 1 || slots > maxConnections {
		return identity{}, errIdentity
	}
	id := identity{export: export, slots: slots}
	if parts[2] != "-" {
		id.volume = parts[2]
	}
	if id.String() != text {
		return identity{}, errIdentity
	}
	return id, nil
}

// sameVolume reports whether two devices would be the same volume. A server that does not say which it is may have
// others under that name elsewhere.
func (id identity) sameVolume(other identity) bool {
	return id.volume != "" && id.volume == other.volume
}

// export is what a server offers, as far as attaching goes.
type export struct {
	sizeBytes int64
	flags     uint16 // transmission flags
	readOnly  bool
	multiConn bool
	preferred int    // block size in bytes; 0 where the server does not say
	volume    string // UUID, or ""
	instance  string // "" where the server does not say
}

// readOffer reads the UUID of the volume and the instance of the server out of the description: lockstep has
// "uuid=UUID" and "instance=UUID" in it.
func readOffer(o nbd.Offer) export {
	return export{
		sizeBytes: o.SizeBytes,
		flags:     o.Flags,
		readOnly:  o.ReadOnly(),
		multiConn: o.MultiConn(),
		preferred: int(o.PreferredBlockBytes),
		volume:    describedUUID(o.Description, "uuid="),
		instance:  describedUUID(o.Description, "instance="),
	}
}

func describedUUID(description, key string) string {
	for _, word := range strings.Fields(description) {
		text, ok := strings.CutPrefix(word, key)
		if id, err := uuid.Parse(text); ok && err == nil {
			return id.String()
		}
	}
	return ""
}

// sameInstance reports whether two offers are of one life of a server. A server that does not say is another each time.
func (e export) sameInstance(other export) bool {
	return e.instance != "" && e.instance == other.instance
}
