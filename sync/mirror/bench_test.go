//go:build unix

package mirror

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// project makes n files of a source tree's sizes, 20 to a folder.
func project(t testing.TB, dir string, n int) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		content := make([]byte, 200+r.IntN(8000))
		for j := range content {
			content[j] = byte(r.IntN(256))
		}
		write(t, dir, fmt.Sprintf("p%d/d%d/f%d.go", i/400, i/20, i), string(content))
	}
}

const projectFiles = 10_000

func BenchmarkFirstCopy(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		r := newRig(b, nil)
		project(b, r.host, projectFiles)
		b.StartTimer()
		r.start(b)
		r.flush(b)
		b.StopTimer()
		r.Close()
		b.StartTimer()
	}
}

func BenchmarkNothingToDo(b *testing.B) {
	r := newRig(b, nil)
	project(b, r.host, projectFiles)
	r.start(b)
	r.flush(b)
	time.Sleep(3 * time.Second) // until stamps are not young any more: the figure is that of a quiet project
	r.flush(b)
	for b.Loop() {
		r.flush(b)
	}
}

func BenchmarkRestart(b *testing.B) {
	r := newRig(b, nil)
	project(b, r.host, projectFiles)
	r.start(b)
	r.flush(b)
	r.Close()
	time.Sleep(3 * time.Second) // see above
	for b.Loop() {
		r.start(b)
		until(b, "in step", func() bool { return !r.Status().Synced.IsZero() })
		b.StopTimer()
		r.Close()
		b.StartTimer()
	}
}

// waitFor polls without the cost of reading the tree.
func waitFor(b *testing.B, path, content string) {
	until(b, path, func() bool {
		data, err := os.ReadFile(path)
		return err == nil && string(data) == content
	})
}

func BenchmarkOneFile(b *testing.B) {
	for _, from := range []string{"host", "guest"} {
		b.Run("from the "+from, func(b *testing.B) {
			r := newRig(b, nil)
			project(b, r.host, projectFiles)
			r.start(b)
			r.flush(b)
			src, dst := r.host, r.guest
			if from == "guest" {
				src, dst = dst, src
			}
			for i := 0; b.Loop(); i++ {
				content := fmt.Sprint("change ", i)
				write(b, src, "p1/d20/f400.go", content)
				waitFor(b, filepath.Join(dst, "p1/d20/f400.go"), content)
			}
		})
	}
}

func BenchmarkBurst(b *testing.B) {
	r := newRig(b, nil)
	project(b, r.host, projectFiles)
	r.start(b)
	r.flush(b)
	for i := 0; b.Loop(); i++ {
		for f := range 5000 {
			write(b, r.host, fmt.Sprintf("p%d/d%d/f%d.go", f/400, f/20, f), fmt.Sprint("burst ", i))
		}
		r.flush(b)
	}
}

func BenchmarkAppendToLargeFile(b *testing.B) {
	r := newRig(b, nil)
	write(b, r.host, "big", string(make([]byte, 100<<20)))
	r.start(b)
	r.flush(b)
	for i := 0; b.Loop(); i++ {
		f, err := os.OpenFile(filepath.Join(r.host, "big"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			b.Fatal(err)
		}
		fmt.Fprint(f, i)
		f.Close()
		r.flush(b)
	}
}

// BenchmarkPlainCopy is what the same files cost without a mirror: the peer of BenchmarkFirstCopy.
func BenchmarkPlainCopy(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		project(b, filepath.Join(dir, "a"), projectFiles)
		b.StartTimer()
		if err := os.CopyFS(filepath.Join(dir, "b"), os.DirFS(filepath.Join(dir, "a"))); err != nil {
			b.Fatal(err)
		}
	}
}
