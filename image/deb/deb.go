// Package deb reads .deb files and writes them again with uncompressed members.
//
// A builder guest that is emulated unpacks xz many times slower than the host
// does, and the host has all cores for it. A .deb is an ar archive of
// debian-binary, control.tar and data.tar (deb(5)); the two tars may carry a
// compression in their names. Contents come from the archive and have been
// checked against its hashes; sizes are bounded all the same, as a decompressor's
// output is not what the hash was made of.
package deb

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	magic      = "!<arch>\n"
	headerSize = 60
	maxMembers = 8       // deb(5) knows three; vendors add one or two
	maxMember  = 2 << 30 // bytes unpacked: the largest package wanted unpacks to 130 MB
	maxWindow  = 128 << 20
	bufferSize = 256 << 10
)

// ErrFormat means that the file is not a .deb as deb(5) has it.
var ErrFormat = errors.New("not a debian package")

// member is one entry of the ar archive.
type member struct {
	name string
	body io.Reader // valid until the next call of next
}

// reader walks an ar archive.
type reader struct {
	src  io.ReadSeeker
	next int64
	n    int
}

func newReader(src io.ReadSeeker) (*reader, error) {
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(src, head); err != nil || string(head) != magic {
		return nil, fmt.Errorf("%w: no ar magic", ErrFormat)
	}
	return &reader{src: src, next: int64(len(magic))}, nil
}

// member returns the next entry, io.EOF at the end.
func (r *reader) member() (member, error) {
	if _, err := r.src.Seek(r.next, io.SeekStart); err != nil {
		return member{}, err
	}
	head := make([]byte, headerSize)
	switch _, err := io.ReadFull(r.src, head); {
	case errors.Is(err, io.EOF):
		return member{}, io.EOF
	case err != nil:
		return member{}, fmt.Errorf("%w: cut header", ErrFormat)
	}
	if r.n++; r.n > maxMembers {
		return member{}, fmt.Errorf("%w: more than %d members", ErrFormat, maxMembers)
	}
	size, err := strconv.ParseInt(strings.TrimRight(string(head[48:58]), " "), 10, 64)
	if err != nil || size < 0 || size > maxMember || string(head[58:]) != "`\n" {
		return member{}, fmt.Errorf("%w: odd header %q", ErrFormat, head)
	}
	r.next += headerSize + size + size%2
	name := strings.TrimSuffix(strings.TrimRight(string(head[:16]), " "), "/")
	// Buffered: the xz decoder reads byte by byte.
	return member{name: name, body: bufio.NewReaderSize(io.LimitReader(r.src, size), bufferSize)}, nil
}

// unpack returns the name without its compression and a reader of what is inside.
// The caller closes it.
func unpack(m member) (string, io.ReadCloser, error) {
	base, kind, _ := strings.Cut(m.name, ".tar")
	base += ".tar"
	switch kind {
	case "":
		return base, io.NopCloser(m.body), nil
	case ".gz":
		r, err := gzip.NewReader(m.body)
		return base, r, err
	case ".xz":
		r, err := xz.ReaderConfig{DictCap: maxWindow}.NewReader(m.body)
		if err != nil {
			return base, nil, err
		}
		return base, io.NopCloser(r), nil
	case ".zst":
		r, err := zstd.NewReader(m.body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return base, nil, err
		}
		return base, r.IOReadCloser(), nil
	}
	return base, nil, fmt.Errorf("%w: member %q has an unknown compression", ErrFormat, m.name)
}

// Repack writes the .deb at path to out with uncompressed members. out is
// written from its start and left open, at its end.
func Repack(path string, out io.WriteSeeker) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	r, err := newReader(file)
	if err != nil {
		return err
	}
	w := newWriter(out)
	seen := ""
	for {
		m, err := r.member()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name, err := repackMember(w, m)
		if err != nil {
			return fmt.Errorf("member %q: %w", m.name, err)
		}
		seen += name + " "
	}
	if seen != "debian-binary control.tar data.tar " {
		return fmt.Errorf("%w: members are %q", ErrFormat, seen)
	}
	return w.err
}

func repackMember(w *writer, m member) (string, error) {
	if m.name == "debian-binary" {
		return m.name, w.add(m.name, m.body)
	}
	name, body, err := unpack(m)
	if err != nil {
		return "", err
	}
	defer body.Close()
	return name, w.add(name, body)
}

// Data calls read with the uncompressed data.tar of the .deb at path.
func Data(path string, read func(io.Reader) error) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	r, err := newReader(file)
	if err != nil {
		return err
	}
	for {
		m, err := r.member()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: no data.tar", ErrFormat)
		}
		if err != nil {
			return err
		}
		if !strings.HasPrefix(m.name, "data.tar") {
			continue
		}
		_, body, err := unpack(m)
		if err != nil {
			return err
		}
		defer body.Close()
		return read(io.LimitReader(body, maxMember))
	}
}
