package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-qemu/qmp/raw"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const greeting = `{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}`

// standIn answers as QEMU does; the conformance suite keeps it honest.
func standIn(conn net.Conn) {
	defer conn.Close()
	var out sync.Mutex
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Fprintf(conn, format+"\r\n", args...)
	}
	say(greeting)
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var cmd struct {
			Execute string          `json:"execute"`
			ID      json.RawMessage `json:"id"`
		}
		if json.Unmarshal(lines.Bytes(), &cmd) != nil {
			say(`{"error": {"class": "GenericError", "desc": "JSON parse error"}}`)
			continue
		}
		switch cmd.Execute {
		case "qmp_capabilities", "system_wakeup":
			say(`{"return": {}, "id": %s}`, cmd.ID)
		case "query-status":
			say(`{"return": {"status": "running", "running": true}, "id": %s}`, cmd.ID)
		case "query-qmp-schema":
			say(`{"return": [%s{"name":"end"}], "id": %s}`, strings.Repeat(`{"name": "query", "meta-type": "command"},`, 6000), cmd.ID)
		case "stop", "cont":
			say(`{"event": "%s", "data": {}, "timestamp": {"seconds": 1, "microseconds": 2}}`, map[string]string{"stop": "STOP", "cont": "RESUME"}[cmd.Execute])
			say(`{"return": {}, "id": %s}`, cmd.ID)
		case "quit":
			say(`{"return": {}, "id": %s}`, cmd.ID)
			return
		default:
			say(`{"error": {"class": "CommandNotFound", "desc": "The command %s has not been found"}, "id": %s}`, cmd.Execute, cmd.ID)
		}
	}
}

func dialStandIn(t *testing.T) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() { defer close(ended); standIn(theirs) }()
	c, err := New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); <-ended })
	return c
}

func dialQEMU(t *testing.T) *Client {
	t.Helper()
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("no qemu-system-x86_64")
	}
	path := filepath.Join(t.TempDir(), "q")
	cmd := exec.Command(binary, "-machine", "none", "-nodefaults", "-display", "none", "-qmp", "unix:"+path+",server=on,wait=off")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	var c *Client
	for range 200 {
		if c, err = Dial(t.Context(), path); err == nil {
			t.Cleanup(func() { c.Close() })
			return c
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(err)
	return nil
}

// TestConformance runs one suite against the stand-in and the real thing.
func TestConformance(t *testing.T) {
	for name, dial := range map[string]func(*testing.T) *Client{"stand-in": dialStandIn, "qemu": dialQEMU} {
		for test, run := range map[string]func(*testing.T, *Client){
			"answers": testAnswers, "concurrent": testConcurrent, "refusal": testRefusal, "long reply": testLongReply,
			"unread events": testUnreadEvents, "events end": testEventsEnd, "quit": testQuit, "go-qemu": testGoQEMU, "closed": testClosed,
		} {
			t.Run(name+"/"+test, func(t *testing.T) { run(t, dial(t)) })
		}
	}
}

func testAnswers(t *testing.T, c *Client) {
	var status struct {
		Running bool   `json:"running"`
		Status  string `json:"status"`
	}
	if err := c.Execute(t.Context(), "query-status", nil, &status); err != nil || !status.Running || status.Status != "running" {
		t.Fatalf("got %+v, %v", status, err)
	}
}

func testConcurrent(t *testing.T, c *Client) {
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			name := fmt.Sprintf("no-such-%d", i)
			var refused *Error
			if err := c.Execute(t.Context(), name, nil, nil); !errors.As(err, &refused) || !strings.Contains(refused.Desc, name) {
				t.Errorf("%s got another's answer: %v", name, err)
			}
		})
	}
	wg.Wait()
}

func testRefusal(t *testing.T, c *Client) {
	var refused *Error
	err := c.Execute(t.Context(), "no-such", nil, nil)
	if !errors.As(err, &refused) || refused.Class != "CommandNotFound" || refused.Command != "no-such" || refused.Desc == "" {
		t.Errorf("got %#v", err)
	}
}

func testLongReply(t *testing.T, c *Client) {
	var schema []json.RawMessage
	if err := c.Execute(t.Context(), "query-qmp-schema", nil, &schema); err != nil || len(schema) < 100 {
		t.Errorf("%d entries, %v", len(schema), err)
	}
}

func testUnreadEvents(t *testing.T, c *Client) {
	events, err := c.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range eventQueue { // two events each
		for _, cmd := range []string{"stop", "cont"} {
			if err := c.Execute(t.Context(), cmd, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := c.Dropped(); got != eventQueue {
		t.Errorf("%d events dropped, want %d", got, eventQueue)
	}
	if e := <-events; e.Event != "STOP" && e.Event != "RESUME" || e.Timestamp.Seconds == 0 {
		t.Errorf("got %+v", e)
	}
}

func testEventsEnd(t *testing.T, c *Client) {
	ctx, cancel := context.WithCancel(t.Context())
	events, err := c.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, open := <-events; open {
		t.Error("an event after the context's end")
	}
	testAnswers(t, c)
}

func testQuit(t *testing.T, c *Client) {
	if err := c.Execute(t.Context(), "quit", nil, nil); err != nil {
		t.Errorf("quit: %v", err)
	}
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the connection did not end")
	}
	if err := c.Execute(t.Context(), "query-status", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func testGoQEMU(t *testing.T, c *Client) {
	if err := raw.NewMonitor(c).SystemWakeup(); err != nil {
		var refused *Error
		if !errors.As(err, &refused) { // a machine "none" does not support it and says so
			t.Errorf("through go-qemu's raw monitor: %v", err)
		}
	}
	out, err := c.Run([]byte(`{"execute": "query-status"}`))
	if err != nil || !bytes.Contains(out, []byte(`"return"`)) {
		t.Errorf("Run: %s, %v", out, err)
	}
}

func testClosed(t *testing.T, c *Client) {
	events, err := c.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Disconnect()
	if _, open := <-events; open {
		t.Error("an event after the end")
	}
	if err := c.Connect(); !errors.Is(err, ErrClosed) {
		t.Errorf("Connect: %v", err)
	}
	if _, err := c.Events(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Events: %v", err)
	}
}

// silent negotiates and then answers nothing, and reads only if told to.
func silent(t *testing.T, read bool) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { theirs.Close() })
	go func() {
		io.WriteString(theirs, greeting+"\r\n")
		bufio.NewReader(theirs).ReadString('\n')
		io.WriteString(theirs, `{"return": {}, "id": 1}`+"\r\n")
		if read {
			io.Copy(io.Discard, theirs)
		}
	}()
	c, err := New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestCallsEndWithTheirContext(t *testing.T) {
	for _, read := range []bool{true, false} {
		c := silent(t, read)
		var wg sync.WaitGroup
		for range 3 { // also those that wait behind a write that hangs
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				if err := c.Execute(ctx, "query-status", nil, nil); err == nil {
					t.Error("an answer from a silent monitor")
				}
			})
		}
		wg.Wait()
		if alive := c.Err() == nil; alive != read {
			t.Errorf("reading %v: alive %v: only a command cut short ends the connection", read, alive)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, said := range map[string]string{
		"nothing":      "",
		"no JSON":      "SSH-2.0-x\r\n",
		"no greeting":  `{"return": {}}` + "\r\n",
		"half":         greeting[:20],
		"endless line": strings.Repeat("x", maxMessage+1),
	} {
		ours, theirs := net.Pipe()
		go func() { io.WriteString(theirs, said); theirs.Close() }()
		if c, err := New(t.Context(), ours); err == nil {
			c.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNewEndsWithItsContext(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, ours); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// FuzzReader feeds what a QEMU that its guest has taken over might say.
func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"return": {}, "id": 1}` + "\r\n"))
	f.Add([]byte(`{"event": "STOP", "data": null, "timestamp": {}}` + "\n{}\n"))
	f.Add([]byte(`{"error": {"class": 3}, "id": -1}` + "\n"))
	f.Add([]byte("\xff\x00\n[]\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			io.WriteString(theirs, greeting+"\r\n")
			bufio.NewReader(theirs).ReadString('\n')
			theirs.Write(said)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c, err := New(ctx, ours)
		if errors.Is(err, context.DeadlineExceeded) {
			t.Fatal("the reader hangs")
		}
		if err != nil {
			return
		}
		defer c.Close()
		select {
		case <-c.Done():
		case <-ctx.Done():
			t.Fatal("the reader hangs")
		}
	})
}
