package deb

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"strings"
)

// writer makes an ar archive. Sizes are filled in afterwards, so that a member
// need not be held in memory. The first error sticks.
type writer struct {
	out io.WriteSeeker
	at  int64
	err error
}

func newWriter(out io.WriteSeeker) *writer {
	w := &writer{out: out}
	w.put([]byte(magic))
	return w
}

func (w *writer) put(data []byte) {
	if w.err == nil {
		var n int
		n, w.err = w.out.Write(data)
		w.at += int64(n)
	}
}

func (w *writer) seek(at int64) {
	if w.err == nil {
		_, w.err = w.out.Seek(at, io.SeekStart)
	}
}

// add copies body, at most maxMember bytes, into a member.
func (w *writer) add(name string, body io.Reader) error {
	start := w.at
	w.put(header(name, 0))
	if w.err != nil {
		return w.err
	}
	size, err := io.Copy(w.out, io.LimitReader(body, maxMember+1))
	w.at += size
	switch {
	case err != nil:
		w.err = err
	case size > maxMember:
		w.err = fmt.Errorf("%w: unpacks to more than %d bytes", ErrFormat, maxMember)
	}
	if size%2 == 1 {
		w.put([]byte{'\n'})
	}
	end := w.at
	w.seek(start)
	w.put(header(name, size))
	w.seek(end)
	w.at = end
	return w.err
}

// header has no time and no owner: the same content makes the same bytes.
func header(name string, size int64) []byte {
	return fmt.Appendf(nil, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", size)
}

// Stub describes a package that holds nothing: it stands for one that the guest
// does not want, so that dpkg and apt see their dependencies fulfilled.
type Stub struct {
	Name     string
	Provides []string
	Reason   string // one line, the package's description
}

// Write makes the stub's .deb, the same bytes each time.
func (s Stub) Write(out io.WriteSeeker) error {
	control := fmt.Sprintf("Package: %s\nVersion: 1\nArchitecture: all\nMaintainer: sbx\nPriority: optional\nProvides: %s\nDescription: %s\n",
		s.Name, strings.Join(s.Provides, ", "), s.Reason)
	var controlTar, dataTar bytes.Buffer
	if err := writeTar(&controlTar, "./control", control); err != nil {
		return err
	}
	if err := writeTar(&dataTar, "", ""); err != nil {
		return err
	}
	w := newWriter(out)
	if err := w.add("debian-binary", strings.NewReader("2.0\n")); err != nil {
		return err
	}
	if err := w.add("control.tar", &controlTar); err != nil {
		return err
	}
	return w.add("data.tar", &dataTar)
}

// writeTar makes a tar of the folder "./" and, when name is not empty, one file.
func writeTar(out io.Writer, name, body string) error {
	w := tar.NewWriter(out)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755, Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	if name != "" {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body)), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		if _, err := io.WriteString(w, body); err != nil {
			return err
		}
	}
	return w.Close()
}
