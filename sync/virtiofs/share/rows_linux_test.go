package share

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sbx-vm/sbx/sync/guard"
)

// A guest that looks up more than it may gets ENFILE; what it knows goes on to work, and room that it gives back is room.
func TestW59_MoreInodesThanDescriptors(t *testing.T) {
	dir := t.TempDir()
	for i := range 40 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	protect, err := guard.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	mask, err := guard.NewMask(nil)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Open(Options{Exports: []Export{{Name: "w", Path: dir}}, MaxOpen: 20, Guard: protect, Mask: mask, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	var root fuse.EntryOut
	if s := tree.Lookup(nil, &fuse.InHeader{NodeId: 1}, "w", &root); s != fuse.OK {
		t.Fatal(s)
	}
	var known []uint64
	full := 0
	for i := range 40 {
		var out fuse.EntryOut
		switch s := tree.Lookup(nil, &fuse.InHeader{NodeId: root.NodeId}, fmt.Sprint(i), &out); s {
		case fuse.OK:
			known = append(known, out.NodeId)
		case fuse.Status(unix.ENFILE):
			full++
		default:
			t.Fatal(s)
		}
	}
	if len(known) >= 20 || full == 0 {
		t.Errorf("%d known, %d refused", len(known), full)
	}
	var attr fuse.AttrOut
	if s := tree.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: known[0]}}, &attr); s != fuse.OK {
		t.Errorf("what is known: %v", s)
	}
	tree.Forget(known[0], 1)
	var out fuse.EntryOut
	if s := tree.Lookup(nil, &fuse.InHeader{NodeId: root.NodeId}, "39", &out); s != fuse.OK {
		t.Errorf("after one was given back: %v", s)
	}
}
