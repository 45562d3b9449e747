package guard

import "testing"

func BenchmarkProtected(b *testing.B) {
	m, err := New(nil)
	if err != nil {
		b.Fatal(err)
	}
	path := []string{"src", "internal", "deep", "file-12.go"}
	for b.Loop() {
		if m.Protected(path) {
			b.Fatal("protected")
		}
	}
}
func BenchmarkEnds(b *testing.B) {
	m, err := NewMask(nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if m.Ends("file-12.go") {
			b.Fatal("masked")
		}
	}
}

// BenchmarkMakeFile is what is asked when a guest makes a file.
func BenchmarkMakeFile(b *testing.B) {
	m, err := New(nil)
	if err != nil {
		b.Fatal(err)
	}
	mask, err := NewMask(nil)
	if err != nil {
		b.Fatal(err)
	}
	path := []string{"src", "internal", "deep", "file-12.go"}
	name := path[len(path)-1]
	for b.Loop() {
		if PointerAt(path) != NoPointer || m.Protected(path) || Match(gitDir, name) || IsLock(path) || mask.Ends(name) {
			b.Fatal("not an ordinary file")
		}
	}
}
