package qemu

import (
	"slices"
	"strings"
	"testing"
)

// TestEgress is the rows of the guest's network that a command line decides.
func TestEgress(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run("G9_one_link_and_no_other/"+arch, func(t *testing.T) {
			m := sandbox(arch)
			args, err := Args(host("linux", "tcg", Version{10, 0, 2}), m, numbered(m))
			if err != nil {
				t.Fatal(err)
			}
			var links []string
			for i, a := range args[:len(args)-1] {
				if a == "-netdev" {
					links = append(links, args[i+1])
				}
			}
			if len(links) != 1 || !strings.HasPrefix(links[0], "stream,") {
				t.Errorf("links %q", links)
			}
			if !slices.Contains(args, "-nodefaults") {
				t.Error("QEMU may add a network of its own")
			}
			for _, a := range args {
				if a == "-nic" || a == "-net" || strings.HasPrefix(a, "user,") || strings.Contains(a, "vsock") {
					t.Errorf("%q is another way out", a)
				}
			}
		})
	}
}

// A path with commas in it injects no option: QEMU gets descriptors, and sees no path of the user's.
func TestW12_PathsWithCommas(t *testing.T) {
	m := sandbox("amd64")
	args, err := Args(host("linux", "tcg", Version{10, 0, 2}), m, numbered(m))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range args {
		if strings.Contains(a, "readonly=off,") || strings.Contains(a, "/d/root") {
			t.Errorf("%q holds the disk's path", a)
		}
	}
}
