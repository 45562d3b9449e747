package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sbx-vm/sbx/machine/qemu"
)

func TestFaultyVersions(t *testing.T) {
	for version, want := range map[qemu.Version]bool{
		{7, 2, 0}: true, {10, 0, 2}: true, {10, 0, 12}: true, {10, 0, 13}: false, {10, 0, 14}: false,
		{10, 1, 0}: true, {10, 2, 9}: true, {11, 0, 3}: true, {11, 1, 0}: false, {12, 0, 0}: false,
	} {
		if got := faulty(version); got != want {
			t.Errorf("faulty(%v) = %v", version, got)
		}
	}
}

func TestChecks(t *testing.T) {
	checks := []check{
		{Name: "a", Status: checkOK, Detail: "fine"},
		{Name: "b", Status: checkWarning, Detail: "bad\x1b[0m", Fix: "do this"},
	}
	var out bytes.Buffer
	printChecks(&out, checks)
	if want := "ok       a: fine\nwarning  b: bad\\x1b[0m\n         → do this\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if err := missing(checks); err != nil {
		t.Errorf("warnings alone: %v", err)
	}
	for n, word := range map[int]string{1: "one thing", 2: "2 things"} {
		all := checks
		for range n {
			all = append(all, check{Status: checkMissing})
		}
		if err := missing(all); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%d missing: %v", n, err)
		}
	}
}

// Whatever this machine lacks, doctor looks on and says something about each.
func TestExamine(t *testing.T) {
	home := t.TempDir()
	a := &app{Streams: Streams{Env: []string{"SBX_HOME=" + home, "HOME=" + home, "SBX_ACCEL=tcg"}, Dir: home}}
	names := map[string]bool{}
	for _, c := range a.examine(t.Context()) {
		names[c.Name] = true
		if c.Status != checkOK && c.Status != checkWarning && c.Status != checkMissing || c.Detail == "" {
			t.Errorf("%+v", c)
		}
	}
	for _, want := range []string{"system", "qemu", "qemu-img", "guest agent", "landlock", "room for disks", "room for images"} {
		if !names[want] {
			t.Errorf("nothing is said about %q", want)
		}
	}
}
