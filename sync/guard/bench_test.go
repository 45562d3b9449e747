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
