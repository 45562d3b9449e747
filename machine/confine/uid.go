package confine

import (
	"crypto/sha256"
	"encoding/binary"
	"os"
	"os/user"
	"strconv"
)

// The range of ids that children of root get: above what distributions, logind and
// container tools hand out (systemd: docs/UIDS-GIDS.md), below 2^31.
const (
	firstUID = 0x70000000
	countUID = 0x0fffff00
)

// OwnUID is the id that a child of root becomes: one for each key, so that two
// machines cannot touch each other's process, and nobody else's. Without root it is
// 0: children keep the user's.
func OwnUID(key string) int {
	if os.Geteuid() != 0 {
		return 0
	}
	h := sha256.Sum256([]byte(key))
	at := binary.BigEndian.Uint32(h[:4]) % countUID
	for {
		uid := firstUID + int(at)
		if _, err := user.LookupId(strconv.Itoa(uid)); err != nil {
			return uid
		}
		at = (at + 1) % countUID
	}
}
