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

// BenchmarkMakeFile is what is asked when a guest makes a file, at first and again in the same folder.
func BenchmarkMakeFile(b *testing.B) {
	m, err := New(nil)
	if err != nil {
		b.Fatal(err)
	}
	path := []string{"src", "internal", "deep", "file-12.go"}
	folder, name := path[:len(path)-1], path[len(path)-1]
	b.Run("asked", func(b *testing.B) {
		for b.Loop() {
			if PointerAt(path) != NoPointer || m.Protected(path) || Match(gitDir, name) || IsLock(path) {
				b.Fatal("not an ordinary file")
			}
		}
	})
	b.Run("folder", func(b *testing.B) {
		for b.Loop() {
			if !m.Folder(folder).Ordinary(name) {
				b.Fatal("not an ordinary file")
			}
		}
	})
	b.Run("ordinary", func(b *testing.B) {
		f := m.Folder(folder)
		for b.Loop() {
			if !f.Ordinary(name) {
				b.Fatal("not an ordinary file")
			}
		}
	})
}
