package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, opts Options) (*Log, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net.log")
	l, err := Open(path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, path
}

func read(t *testing.T, path string, opts ReadOptions) []Entry {
	t.Helper()
	var got []Entry
	if err := Read(context.Background(), path, opts, func(e Entry) error { got = append(got, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestEntriesComeBack(t *testing.T) {
	l, path := open(t, Options{Sandbox: "shop"})
	want := Entry{
		Time: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC), Sandbox: "shop", Kind: Close, Verdict: VerdictAllow,
		Name: "example.com", Addr: "192.0.2.7", Port: 443, Proto: "tls", Rule: "*.example.com", Origin: "project sbx.yaml:3:5",
		Reason: "rule", BytesUp: 1, BytesDown: 2, DurationMS: 3,
	}
	l.Write(want)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Write(want) // after Close: nothing, and no panic
	if got := read(t, path, ReadOptions{}); len(got) != 1 || got[0] != want {
		t.Errorf("read %+v, want %+v", got, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestHostileTextIsEscaped is row N18: what the guest chose can neither make a
// line of its own nor speak to the terminal, also after decoding.
func TestHostileTextIsEscaped(t *testing.T) {
	l, path := open(t, Options{})
	for _, name := range []string{
		"a\nb", "a\x1b[2Jb", `a","verdict":"allow`, "a\x7fb", "a\u009bb", "a\u202eb", "a\u2028b", "a\xffb", "a\x00b",
		strings.Repeat("x", 10_000), "<script>",
	} {
		l.Write(Entry{Kind: DNS, Verdict: VerdictDeny, Name: name, Method: name, Path: "/" + name, Policy: name})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(raw, []byte("\n")); n != 11 {
		t.Errorf("%d lines", n)
	}
	for _, e := range read(t, path, ReadOptions{}) {
		for _, text := range []string{e.Name, e.Method, e.Path, e.Policy} {
			if e.Verdict != VerdictDeny || text == "" || len(text) > 600 || strings.ContainsFunc(text, unsafe) {
				t.Errorf("%q in entry %q", text, fmt.Sprint(e))
			}
		}
	}
}

func TestEqualEntriesAreMerged(t *testing.T) {
	l, path := open(t, Options{Window: time.Hour})
	for range 1000 {
		l.Write(Entry{Kind: Close, Verdict: VerdictAllow, Name: "example.com", Port: 443, BytesUp: 2, DurationMS: 1})
	}
	l.Write(Entry{Kind: Close, Verdict: VerdictAllow, Name: "example.com", Port: 443, Count: 10})
	l.Write(Entry{Kind: Close, Verdict: VerdictAllow, Name: "example.com", Port: 80})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := read(t, path, ReadOptions{})
	if len(got) != 3 || got[0].Count != 0 || got[0].BytesUp != 2 || got[1].Port != 80 || got[2].Count != 1009 || got[2].BytesUp != 1998 {
		t.Errorf("%+v", got)
	}
}

// TestFloodIsBounded: a hundred thousand different names cost a bounded number of
// lines, and every event is in some count.
func TestFloodIsBounded(t *testing.T) {
	l, path := open(t, Options{Window: time.Hour})
	const events = 100_000
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range events / 8 {
				l.Write(Entry{Kind: DNS, Verdict: VerdictDeny, Name: fmt.Sprintf("%d-%d.evil.test", g, i)})
				l.Write(Entry{Kind: Request, Verdict: VerdictDeny, Name: "example.com", Method: "GET", Path: fmt.Sprintf("/%d/%d", g, i)})
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := read(t, path, ReadOptions{Denied: true})
	var sum int64
	for _, e := range got {
		sum += e.times()
	}
	if len(got) > 2*maxKeys+1 || sum != events { // of two kinds
		t.Errorf("%d lines for %d events, want at most %d for %d", len(got), sum, 2*maxKeys+1, events)
	}
	if last := got[len(got)-1]; last.Kind != Lost {
		t.Errorf("last entry %+v", last)
	}
}

// TestFloodHidesNothingElse: what a guest can make any number of does not push out what it did besides.
func TestFloodHidesNothingElse(t *testing.T) {
	l, path := open(t, Options{Window: time.Hour})
	for i := range 10_000 {
		l.Write(Entry{Kind: DNS, Verdict: VerdictDeny, Name: fmt.Sprintf("%d.evil.test", i)})
		l.Write(Entry{Kind: Request, Verdict: VerdictAllow, Name: "example.com", Path: fmt.Sprintf("/%d", i)})
	}
	want := []Entry{
		{Kind: Connect, Verdict: VerdictAllow, Name: "example.com", Port: 443},
		{Kind: Close, Verdict: VerdictAllow, Name: "example.com", Port: 443, BytesUp: 1 << 30},
		{Kind: Secret, Verdict: VerdictDeny, Name: "example.com"},
	}
	for _, e := range want {
		l.Write(e)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := read(t, path, ReadOptions{})
	for _, w := range want {
		if !slices.ContainsFunc(got, func(e Entry) bool { return e.Kind == w.Kind && e.Name == w.Name && e.BytesUp == w.BytesUp }) {
			t.Errorf("%+v is not in the log", w)
		}
	}
}

func TestWindowWritesCounts(t *testing.T) {
	l, path := open(t, Options{Window: 20 * time.Millisecond})
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		l.Write(Entry{Kind: Drop, Verdict: VerdictDeny, Reason: "icmp"})
		if got := read(t, path, ReadOptions{}); len(got) > 3 && got[1].Count > 0 {
			return
		}
	}
	t.Error("no count was written while the log is open")
}

func TestRotationKeepsTwoFiles(t *testing.T) {
	const limit = 4 << 10
	path := filepath.Join(t.TempDir(), "net.log")
	var last string
	for run := range 3 { // also over restarts
		l, err := Open(path, Options{MaxBytes: limit, Window: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			last = fmt.Sprintf("n%d-%d.example", run, i)
			l.Write(Entry{Kind: DNS, Verdict: VerdictAllow, Name: last})
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 2 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > limit {
			t.Errorf("%s has %d bytes, %v", f, info.Size(), err)
		}
	}
	got := read(t, path, ReadOptions{})
	if got[len(got)-1].Name != last {
		t.Errorf("the last entry is %q, want %q", got[len(got)-1].Name, last)
	}
}

func TestReadFilters(t *testing.T) {
	l, path := open(t, Options{})
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l.Write(Entry{Time: at, Kind: DNS, Verdict: VerdictDeny, Name: "old.test"})
	l.Write(Entry{Time: at.Add(time.Hour), Kind: DNS, Verdict: VerdictAllow, Name: "allowed.test"})
	l.Write(Entry{Time: at.Add(time.Hour), Kind: DNS, Verdict: VerdictDeny, Name: "denied.test"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	got := read(t, path, ReadOptions{Denied: true, Since: at.Add(time.Minute)})
	if len(got) != 1 || got[0].Name != "denied.test" {
		t.Errorf("%+v", got)
	}
	stop := errors.New("enough")
	if err := Read(context.Background(), path, ReadOptions{}, func(Entry) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
	if got := read(t, path+".none", ReadOptions{}); got != nil {
		t.Errorf("a log that is not there has %+v", got)
	}
}

func TestReadSkipsBrokenLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "net.log")
	text := "{\"kind\":\"dns\",\"name\":\"a\"}\nnonsense\n" + strings.Repeat("x", 3*maxLine) + "\n{\"kind\":\"dns\",\"name\":\"b\"}\n{\"kind\":\"dn"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path, ReadOptions{}); len(got) != 2 || got[1].Name != "b" {
		t.Errorf("%+v", got)
	}
}

func TestFollowGoesThroughRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "net.log")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	got := make(chan string)
	done := make(chan error, 1)
	go func() {
		done <- Read(ctx, path, ReadOptions{Follow: true, Poll: time.Millisecond}, func(e Entry) error { got <- e.Name; return nil })
	}()
	l, err := Open(path, Options{MaxBytes: 512, Window: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		want := fmt.Sprintf("n%d.example", i)
		l.Write(Entry{Kind: DNS, Verdict: VerdictAllow, Name: want})
		select {
		case name := <-got:
			if name != want {
				t.Fatalf("got %q, want %q", name, want)
			}
		case <-ctx.Done():
			t.Fatalf("waiting for %q", want)
		}
	}
	cancel()
	if err := errors.Join(<-done, l.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestDiskErrorsStopNothing: the log reports and goes on taking entries.
func TestDiskErrorsStopNothing(t *testing.T) {
	l, _ := open(t, Options{})
	if err := l.file.file.Close(); err != nil {
		t.Fatal(err)
	}
	l.Write(Entry{Kind: DNS})
	if err := l.Close(); err == nil || l.Err() == nil {
		t.Error("no error although nothing was written")
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none", "x"), Options{}); err == nil {
		t.Error("a log in a folder that is not there opens")
	}
}

func TestNilLogKeepsNothing(t *testing.T) {
	var l *Log
	l.Write(Entry{Kind: DNS})
	if l.Err() != nil || l.Close() != nil {
		t.Error("a nil log has errors")
	}
}

func TestEntryFieldNamesAreAnInterface(t *testing.T) {
	text, err := json.Marshal(Entry{
		Kind: DNS, Verdict: VerdictDeny, Name: "a", Addr: "b", Port: 1, Proto: "c", Rule: "d", Origin: "e", Reason: "f",
		BytesUp: 1, BytesDown: 2, DurationMS: 3, Count: 4, Sandbox: "s",
	})
	want := `{"time":"0001-01-01T00:00:00Z","sandbox":"s","kind":"dns","verdict":"deny","name":"a","addr":"b","port":1,"proto":"c",` +
		`"rule":"d","origin":"e","reason":"f","bytes_up":1,"bytes_down":2,"duration_ms":3,"count":4}`
	if err != nil || string(text) != want {
		t.Errorf("%s, %v", text, err)
	}
}
