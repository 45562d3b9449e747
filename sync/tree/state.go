package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// State is what a pair of copies last agreed on.
type State struct {
	// Pair names the two copies: a state of another pair is none.
	Pair string
	// Generation counts saved states, so that an older one put back is seen.
	Generation uint64
	Base       Tree
}

// ErrState is a state that cannot be believed. The right answer is to have none.
var ErrState = errors.New("state of the copies is damaged")

const stateMagic = "sbx-sync-1\n"

// Encode gives the state's bytes: a magic line, the fields, their SHA-256.
func (s State) Encode() []byte {
	out := []byte(stateMagic)
	out = appendText(out, s.Pair)
	out = binary.AppendUvarint(out, s.Generation)
	out = binary.AppendUvarint(out, uint64(len(s.Base)))
	for _, p := range s.Base.Paths() {
		out = appendEntry(appendText(out, p), s.Base[p])
	}
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

func appendText(out []byte, s string) []byte {
	return append(binary.AppendUvarint(out, uint64(len(s))), s...)
}

func appendEntry(out []byte, e Entry) []byte {
	kind := byte(e.Kind)
	if e.Exec {
		kind |= execBit
	}
	out = append(out, kind)
	switch e.Kind {
	case File:
		out = binary.AppendUvarint(out, uint64(e.Size))
		out = append(out, e.Hash[:]...)
		out = binary.AppendVarint(out, e.Stamp.MTime)
		out = binary.AppendVarint(out, e.Stamp.CTime)
		out = binary.AppendUvarint(out, e.Stamp.Inode)
	case Link:
		out = appendText(out, e.Target)
	}
	return out
}

const execBit = 0x80

// DecodeState reads what Encode wrote. Anything else is ErrState.
func DecodeState(data []byte) (State, error) {
	n := len(data) - sha256.Size
	if n < len(stateMagic) || !bytes.HasPrefix(data, []byte(stateMagic)) {
		return State{}, fmt.Errorf("%w: no such file format", ErrState)
	}
	if sum := sha256.Sum256(data[:n]); !bytes.Equal(sum[:], data[n:]) {
		return State{}, fmt.Errorf("%w: checksum", ErrState)
	}
	d := decoder{data: data[len(stateMagic):n]}
	s := State{Pair: d.text(), Generation: d.number(), Base: Tree{}}
	for count := d.number(); count > 0 && !d.bad; count-- {
		p, e := d.text(), d.entry()
		if !ValidPath(p) {
			d.bad = true
		}
		s.Base[p] = e
	}
	if d.bad || len(d.data) > 0 {
		return State{}, fmt.Errorf("%w: fields", ErrState)
	}
	return s, nil
}

// decoder reads fields; after the first bad one all are zero.
type decoder struct {
	data []byte
	bad  bool
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.data)
	d.take(n)
	return v
}

func (d *decoder) signed() int64 {
	v, n := binary.Varint(d.data)
	d.take(n)
	return v
}

func (d *decoder) take(n int) []byte {
	if n <= 0 || n > len(d.data) {
		d.bad, d.data = true, nil
		return nil
	}
	out := d.data[:n]
	d.data = d.data[n:]
	return out
}

func (d *decoder) text() string {
	n := d.number()
	if n == 0 || n > uint64(len(d.data)) {
		d.bad = d.bad || n > 0
		return ""
	}
	return string(d.take(int(n)))
}

func (d *decoder) entry() Entry {
	kind := d.take(1)
	if d.bad {
		return Entry{}
	}
	e := Entry{Kind: Kind(kind[0] &^ execBit), Exec: kind[0]&execBit != 0}
	switch e.Kind {
	case File:
		e.Size = int64(d.number())
		copy(e.Hash[:], d.take(len(e.Hash)))
		e.Stamp = Stamp{MTime: d.signed(), CTime: d.signed(), Inode: d.number()}
	case Link:
		e.Target = d.text()
	case Folder:
	default:
		d.bad = true
	}
	return e
}
