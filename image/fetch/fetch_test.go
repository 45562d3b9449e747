package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mirror serves one file and misbehaves as told.
type mirror struct {
	*httptest.Server
	body   []byte
	asked  atomic.Int64
	ranges sync.Map
	serve  func(w http.ResponseWriter, r *http.Request, n int64)
}

func newMirror(t *testing.T, body []byte) *mirror {
	t.Helper()
	m := &mirror{body: body}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := m.asked.Add(1)
		m.ranges.Store(n, r.Header.Get("Range"))
		if m.serve != nil {
			m.serve(w, r, n)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.body))
	}))
	t.Cleanup(m.Close)
	return m
}

func (m *mirror) file() File {
	sum := sha256.Sum256(m.body)
	return File{URL: m.URL + "/a.deb", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(m.body))}
}

func newClient(t *testing.T) *Client {
	t.Helper()
	transport := NewHTTP()
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{HTTP: transport, Dir: t.TempDir(), Pause: time.Millisecond}
}

func content(n int) []byte {
	return bytes.Repeat([]byte("0123456789abcdef"), n/16)
}

// cut sends all headers and half of the body, then drops the connection.
func cut(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.Write(body[:len(body)/2])
	w.(http.Flusher).Flush()
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

func checkCached(t *testing.T, c *Client, f File, want []byte) {
	t.Helper()
	got, err := os.ReadFile(c.Path(f))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("cache has %d bytes (%v), want %d", len(got), err, len(want))
	}
}

func checkAbsent(t *testing.T, c *Client, f File) {
	t.Helper()
	if _, err := os.Stat(c.Path(f)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a bad file is in the cache: %v", err)
	}
}

func TestCutTransferIsResumed(t *testing.T) {
	m := newMirror(t, content(1<<20))
	m.serve = func(w http.ResponseWriter, r *http.Request, n int64) {
		if n == 1 {
			cut(w, m.body)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.body))
	}
	c := newClient(t)
	var counted atomic.Int64
	c.Done = func(n int64) { counted.Add(n) }
	if _, err := c.Get(context.Background(), m.file()); err != nil {
		t.Fatal(err)
	}
	checkCached(t, c, m.file(), m.body)
	if r, _ := m.ranges.Load(int64(2)); !strings.HasPrefix(r.(string), "bytes=") {
		t.Errorf("second request had Range %q", r)
	}
	if counted.Load() != int64(len(m.body)) {
		t.Errorf("progress counted %d bytes of %d", counted.Load(), len(m.body))
	}
}

func TestNextRunContinuesWhereTheLastWasCut(t *testing.T) {
	m := newMirror(t, content(1<<20))
	broken := true
	m.serve = func(w http.ResponseWriter, r *http.Request, _ int64) {
		if broken {
			cut(w, m.body)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.body))
	}
	c := newClient(t)
	_, err := c.Get(context.Background(), m.file())
	if err == nil {
		t.Fatal("a cut transfer is no error")
	}
	checkAbsent(t, c, m.file())
	broken = false
	if _, err := c.Get(context.Background(), m.file()); err != nil {
		t.Fatal(err)
	}
	checkCached(t, c, m.file(), m.body)
}

func TestBadContentIsRefusedAndForgotten(t *testing.T) {
	body := content(1 << 16)
	flipped := bytes.Clone(body)
	flipped[100] ^= 1
	tests := map[string]func(w http.ResponseWriter){
		"flipped bit": func(w http.ResponseWriter) { w.Write(flipped) },
		"too long":    func(w http.ResponseWriter) { w.Write(body); w.Write(body) },
		"endless": func(w http.ResponseWriter) {
			for {
				if _, err := w.Write(body); err != nil {
					return
				}
			}
		},
	}
	for name, send := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t, body)
			m.serve = func(w http.ResponseWriter, _ *http.Request, _ int64) { send(w) }
			c := newClient(t)
			_, err := c.Get(context.Background(), m.file())
			if !errors.Is(err, ErrHash) || !strings.Contains(err.Error(), m.URL) {
				t.Errorf("error is %v", err)
			}
			checkAbsent(t, c, m.file())
			if m.asked.Load() > attempts {
				t.Errorf("asked %d times", m.asked.Load())
			}
			m.serve = nil
			if _, err := c.Get(context.Background(), m.file()); err != nil {
				t.Errorf("the next try fails too: %v", err)
			}
		})
	}
}

func TestWhatIsNotThereIsAskedOnce(t *testing.T) {
	m := newMirror(t, content(16))
	m.serve = func(w http.ResponseWriter, _ *http.Request, _ int64) { w.WriteHeader(http.StatusNotFound) }
	_, err := newClient(t).Get(context.Background(), m.file())
	if !errors.Is(err, ErrNotFound) || m.asked.Load() != 1 {
		t.Errorf("error %v after %d requests", err, m.asked.Load())
	}
}

func TestServerErrorsEndTheTries(t *testing.T) {
	m := newMirror(t, content(16))
	m.serve = func(w http.ResponseWriter, _ *http.Request, _ int64) { w.WriteHeader(http.StatusBadGateway) }
	_, err := newClient(t).Get(context.Background(), m.file())
	if err == nil || !strings.Contains(err.Error(), "502") || m.asked.Load() != attempts {
		t.Errorf("error %v after %d requests", err, m.asked.Load())
	}
}

func TestDeadServerIsNotRetried(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	begin := time.Now()
	c := newClient(t)
	c.Pause = time.Hour
	_, err = c.Get(context.Background(), File{URL: "http://" + address + "/x", SHA256: strings.Repeat("0", 64), Size: 1})
	if !errors.Is(err, ErrUnreachable) || time.Since(begin) > 5*time.Second {
		t.Errorf("error %v after %s", err, time.Since(begin))
	}
}

func TestTwoClientsDownloadOnce(t *testing.T) {
	m := newMirror(t, content(1<<20))
	dir := t.TempDir()
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			c := newClient(t)
			c.Dir = dir
			if _, err := c.Get(context.Background(), m.file()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if m.asked.Load() != 1 {
		t.Errorf("the mirror was asked %d times", m.asked.Load())
	}
}

func TestAllStopsAtTheFirstError(t *testing.T) {
	m := newMirror(t, content(16))
	files := []File{m.file(), {URL: m.URL + "/odd", SHA256: "../../etc/passwd", Size: 1}}
	if err := newClient(t).All(context.Background(), files); err == nil || !strings.Contains(err.Error(), "no hash") {
		t.Errorf("error is %v", err)
	}
}

func TestTextIsBounded(t *testing.T) {
	m := newMirror(t, content(1<<10))
	c := newClient(t)
	if _, err := c.Text(context.Background(), m.URL, 1<<9); err == nil {
		t.Error("a larger text is no error")
	}
	if got, err := c.Text(context.Background(), m.URL, 1<<10); err != nil || !bytes.Equal(got, m.body) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestCancelledWhileTransferStands(t *testing.T) {
	m := newMirror(t, content(1<<10))
	release := make(chan struct{})
	m.serve = func(w http.ResponseWriter, r *http.Request, _ int64) {
		w.Header().Set("Content-Length", "1024")
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}
	defer close(release)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	c := newClient(t)
	if _, err := c.Get(ctx, m.file()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	checkAbsent(t, c, m.file())
}

// A file system that is full is /dev/full's error, from the same call.
func TestFullDiskIsNotRetried(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("no /dev/full: %v", err)
	}
	defer full.Close()
	_, err = io.Copy(full, bytes.NewReader(content(16)))
	if !errors.Is(err, syscall.ENOSPC) || again(err) {
		t.Errorf("%v would be tried again", err)
	}
}
