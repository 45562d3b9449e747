package debian

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// Release is what a verified InRelease says.
type Release struct {
	Codename   string
	ValidUntil time.Time // zero: the suite sets no limit (stable does not)
	ByHash     bool
	Files      map[string]Sum // by path below the suite's folder
}

// Sum names the content of a file.
type Sum struct {
	SHA256 string
	Size   int64
}

// ErrSignature means that no known key signed, or that what it signed is past its date.
var ErrSignature = errors.New("release file is not to be believed")

// skew is how far the host's clock may run behind the archive's.
const skew = 24 * time.Hour

// Verify checks the signature of an InRelease against keys and its dates
// against now, and returns what it says. Only the signed text is read.
func Verify(inRelease []byte, keys [][]byte, now time.Time) (Release, error) {
	var ring openpgp.EntityList
	for _, key := range keys {
		list, err := openpgp.ReadKeyRing(bytes.NewReader(key))
		if err != nil {
			return Release{}, fmt.Errorf("read an archive key: %w", err)
		}
		ring = append(ring, list...)
	}
	block, rest := clearsign.Decode(inRelease)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return Release{}, fmt.Errorf("%w: not one clear-signed message", ErrSignature)
	}
	config := &packet.Config{Time: func() time.Time { return now }}
	if _, err := block.VerifySignature(ring, config); err != nil {
		return Release{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	release, date, err := parseRelease(string(block.Bytes))
	if err != nil {
		return Release{}, err
	}
	if !release.ValidUntil.IsZero() && now.After(release.ValidUntil) {
		return Release{}, fmt.Errorf("%w: valid until %s, the clock here says %s; the mirror is stale or the clock is wrong",
			ErrSignature, release.ValidUntil.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if now.Add(skew).Before(date) {
		return Release{}, fmt.Errorf("%w: made %s, in the future of the clock here", ErrSignature, date.Format(time.RFC3339))
	}
	return release, nil
}

// parseRelease reads the fields that matter. text has been verified.
func parseRelease(text string) (Release, time.Time, error) {
	release := Release{Files: map[string]Sum{}}
	var date time.Time
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, " ") {
			if section == "SHA256" {
				if err := release.add(line); err != nil {
					return release, date, err
				}
			}
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		section = field
		var err error
		switch field {
		case "Codename":
			release.Codename = value
		case "Acquire-By-Hash":
			release.ByHash = value == "yes"
		case "Valid-Until":
			release.ValidUntil, err = parseDate(value)
		case "Date":
			date, err = parseDate(value)
		}
		if err != nil {
			return release, date, fmt.Errorf("release file: %s: %w", field, err)
		}
	}
	return release, date, nil
}

// parseDate reads RFC 822 dates as dak writes them, always in UTC.
func parseDate(value string) (time.Time, error) {
	return time.Parse("Mon, _2 Jan 2006 15:04:05 MST", value)
}

func (r *Release) add(line string) error {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return fmt.Errorf("release file: odd line %q", line)
	}
	size, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil || size < 0 {
		return fmt.Errorf("release file: odd size in %q", line)
	}
	r.Files[fields[2]] = Sum{SHA256: fields[0], Size: size}
	return nil
}

// unpackIndex decompresses an .xz index and checks that it is the file that the
// release names.
func unpackIndex(path string, want Sum) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	reader, err := xz.NewReader(bufio.NewReaderSize(file, 1<<20)) // it reads byte by byte
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", path, err)
	}
	buf := bytes.NewBuffer(make([]byte, 0, want.Size+512))
	if _, err := io.Copy(buf, io.LimitReader(reader, want.Size+1)); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", path, err)
	}
	sum := sha256.Sum256(buf.Bytes())
	if int64(buf.Len()) != want.Size || hex.EncodeToString(sum[:]) != want.SHA256 {
		return nil, fmt.Errorf("unpacked index is not the one that the release names (sha256 %s)", want.SHA256)
	}
	return buf.Bytes(), nil
}
