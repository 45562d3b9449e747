//go:build unix

package mirror

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sbx-vm/sbx/sync/mirror/agent"
	"github.com/sbx-vm/sbx/sync/mirror/disk"
	"github.com/sbx-vm/sbx/sync/tree"
)

// hostile is a guest whose agent tells of the entries that a test gives it, and does
// nothing. answer may take a request over: a line for it, or "" for the honest answer.
type hostile struct {
	entries []map[string]any
	answer  func(op string, id uint64) string
}

func lie(path string, more map[string]any) map[string]any {
	e := map[string]any{"p": []byte(path), "k": tree.File, "n": 4, "h": make([]byte, 32)}
	maps.Copy(e, more)
	return e
}

func (h hostile) serve(c net.Conn) {
	lines := bufio.NewScanner(c)
	lines.Buffer(nil, 8<<20)
	lines.Scan()
	fmt.Fprintln(c, `{"text":"ready"}`)
	for lines.Scan() {
		var q struct {
			ID    uint64            `json:"id"`
			Op    string            `json:"op"`
			Steps []json.RawMessage `json:"steps"`
		}
		if json.Unmarshal(lines.Bytes(), &q) != nil {
			return
		}
		if h.answer != nil {
			if line := h.answer(q.Op, q.ID); line != "" {
				fmt.Fprintln(c, line)
				continue
			}
		}
		r := map[string]any{"id": q.ID}
		switch q.Op {
		case "scan":
			r["entries"] = h.entries
		case "apply":
			r["faults"] = make([]struct{}, len(q.Steps))
		}
		data, _ := json.Marshal(r)
		c.Write(append(data, '\n'))
	}
}

// against runs a session against a hostile agent until it has met it, and gives how it is then.
func against(t *testing.T, h hostile, files func(net.Conn)) (*rig, Status) {
	t.Helper()
	r := newRig(t, nil)
	write(t, r.host, "mine", "1")
	write(t, filepath.Dir(r.host), "canary", "untouched")
	if files == nil {
		files = server{}.serve
	}
	r.cfg.Remote = Remote{Dir: "/w", Agent: piped(h.serve), SFTP: piped(files)}
	r.start(t)
	until(t, "the session has an opinion", func() bool {
		st := r.Status()
		return st.Problem != "" || st.State == Watching && (len(st.Held) > 0 || len(st.Failed) > 0)
	})
	return r, r.Status()
}

func untouched(t *testing.T, r *rig) {
	t.Helper()
	if h := contents(r.host); len(h) != 1 || h["mine"] != "1" {
		t.Errorf("on the host: %q", h)
	}
	if out, _ := os.ReadDir(filepath.Dir(r.host)); len(out) > 4 || contents(filepath.Dir(r.host))["canary"] != "untouched" {
		t.Errorf("beside it: %v", out)
	}
}

func TestHostileNames(t *testing.T) {
	for id, name := range map[string]string{
		"W01_DotDot": "..", "W01_Below": "a/..", "W01_Dot": "x/.", "W01_Empty": "", "W01_Up": "../canary", "W03_Slash": "/", "W03_Slashes": "//",
		"W03_Absolute": "/etc/passwd", "W04_Nul": "a\x00b", "W10_Own": ".sbx-sync/s-1", "W10_OwnFolded": ".SBX-sync/w-1", "W01_Long": strings.Repeat("x", 256),
		"W01_NoFolder": "absent/x",
	} {
		t.Run(id, func(t *testing.T) {
			r, st := against(t, hostile{entries: []map[string]any{lie(name, nil)}}, nil)
			if !strings.Contains(st.Problem, "nonsense") || len(st.Problem) > 2000 {
				t.Errorf("%+v", st)
			}
			untouched(t, r)
		})
	}
}

func TestHostileAnswers(t *testing.T) {
	scan := func(line string) hostile {
		return hostile{answer: func(op string, id uint64) string {
			if op != "scan" {
				return ""
			}
			return strings.ReplaceAll(line, "ID", fmt.Sprint(id))
		}}
	}
	for id, h := range map[string]hostile{
		"W56_NegativeSize": {entries: []map[string]any{lie("f", map[string]any{"n": -1})}},
		"W56_ShortHash":    {entries: []map[string]any{lie("f", map[string]any{"h": []byte("x")})}},
		"W56_Kind":         {entries: []map[string]any{lie("f", map[string]any{"k": 99})}},
		"W56_SizeOverflow": scan(`{"id":ID,"entries":[{"p":"Zg==","k":2,"n":9223372036854775808}]}`),
		"W56_NotJSON":      scan("\x00\x01"),
		"W56_EndlessLine":  scan(strings.Repeat("x", 9<<20)),
		"W56_OtherAnswer":  scan(`{"id":99999999}`),
		"W56_Hashes": {answer: func(op string, id uint64) string {
			return map[string]string{"mark": fmt.Sprintf(`{"id":%d,"more":true}`, id)}[op]
		}},
	} {
		t.Run(id, func(t *testing.T) {
			r, st := against(t, h, nil)
			if st.Problem == "" || len(st.Problem) > 2000 {
				t.Errorf("%+v", st)
			}
			untouched(t, r)
		})
	}
}

func TestW56_HugeFileIsRefusedBeforeItIsRead(t *testing.T) {
	r, st := against(t, hostile{entries: []map[string]any{lie("mine", nil), lie("f", map[string]any{"n": int64(1<<63 - 1)})}}, nil)
	for _, h := range st.Held {
		if h.Path == "f" {
			untouched(t, r)
			return
		}
	}
	t.Errorf("%+v", st)
}

// server is an SFTP server that lies. It speaks just enough: INIT, OPEN, READ, CLOSE,
// STAT; all else fails.
type server struct {
	read    func(id uint32, off uint64, n uint32) []byte // a packet's type and rest; nil: no answer
	version []byte
	denied  func() // called for each OPEN, which is then refused; nil: it is granted
}

func packet(kind byte, id uint32, rest ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, id), rest...)
}

func data(id uint32, content string) []byte {
	return packet(103, id, append(binary.BigEndian.AppendUint32(nil, uint32(len(content))), content...)...)
}

func (s server) serve(c net.Conn) {
	send := func(p []byte) { c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(p))), p...)) }
	for {
		var head [5]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:])-1)
		if _, err := io.ReadFull(c, body); err != nil {
			return
		}
		if head[4] == 1 { // INIT
			if s.version != nil {
				c.Write(s.version)
			} else {
				send([]byte{2, 0, 0, 0, 3})
			}
			continue
		}
		id := binary.BigEndian.Uint32(body)
		switch head[4] {
		case 3: // OPEN
			if s.denied != nil {
				s.denied()
				send(packet(101, id, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0)) // no permission
				continue
			}
			send(packet(102, id, 0, 0, 0, 1, 'h'))
		case 5: // READ
			if s.read == nil {
				send(packet(101, id, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0))
			} else if p := s.read(id, binary.BigEndian.Uint64(body[9:]), binary.BigEndian.Uint32(body[17:])); p != nil {
				send(p)
			}
		default: // CLOSE
			send(packet(101, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
		}
	}
}

func TestHostileContents(t *testing.T) {
	honest := sha256.Sum256([]byte("good"))
	tell := hostile{entries: []map[string]any{lie("f", map[string]any{"h": honest[:]})}}
	for id, read := range map[string]func(uint32, uint64, uint32) []byte{
		"W44_OtherContent": func(id uint32, _ uint64, _ uint32) []byte { return data(id, "evil") },
		"W56_ShortRead":    func(id uint32, _ uint64, _ uint32) []byte { return data(id, "go") },
		"W56_TooMuch":      func(id uint32, _ uint64, _ uint32) []byte { return data(id, strings.Repeat("x", 100_000)) },
		"W56_Count":        func(id uint32, _ uint64, _ uint32) []byte { return packet(103, id, 0xff, 0xff, 0xff, 0xff, 'x') },
		"W56_OtherPacket":  func(id uint32, _ uint64, _ uint32) []byte { return packet(104, id, 0xff, 0xff, 0xff, 0xff) },
		"W56_OtherID":      func(id uint32, _ uint64, _ uint32) []byte { return data(id+7, "good") },
	} {
		t.Run(id, func(t *testing.T) {
			r, st := against(t, tell, server{read: read}.serve)
			if len(st.Failed) == 0 && st.Problem == "" {
				t.Errorf("%+v", st)
			}
			untouched(t, r)
		})
	}
	t.Run("W56_PacketOf2GiB", func(t *testing.T) {
		r, st := against(t, tell, server{version: []byte{0x7f, 0xff, 0xff, 0xff, 2}}.serve)
		if st.Problem == "" {
			t.Errorf("%+v", st)
		}
		untouched(t, r)
	})
}

// TestW57 has the guest fall silent: what waits for it ends at its deadline.
func TestW57_Silence(t *testing.T) {
	silent := func(c net.Conn) { io.Copy(io.Discard, c) }
	for name, r := range map[string]Remote{
		"agent never answers": {Agent: piped(silent), SFTP: piped(server{}.serve)},
		"sftp never answers":  {Agent: piped(hostile{}.serve), SFTP: piped(silent)},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		if _, err := dial(ctx, r, agent.Hello{}); err == nil {
			t.Errorf("%s: connected", name)
		}
		cancel()
	}
	for name, read := range map[string]func(uint32, uint64, uint32) []byte{
		"in the middle of a READ":   func(uint32, uint64, uint32) []byte { return nil },
		"a READ that gives no byte": func(id uint32, _ uint64, _ uint32) []byte { return data(id, "") },
	} {
		t.Run(name, func(t *testing.T) {
			remote := Remote{Agent: piped(hostile{}.serve), SFTP: piped(server{read: read}.serve)}
			guest, err := dial(context.Background(), remote, agent.Hello{})
			if err != nil {
				t.Fatal(err)
			}
			defer guest.Close()
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			f, err := guest.Open(ctx, "f")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.ReadAt(make([]byte, 4), 0); err == nil {
				t.Error("read something")
			}
		})
	}
	t.Run("in the middle of a scan", func(t *testing.T) {
		h := hostile{answer: func(op string, id uint64) string {
			return map[string]string{"scan": fmt.Sprintf(`{"id":%d,"more":true}`, id)}[op]
		}}
		guest, err := dial(context.Background(), Remote{Agent: piped(h.serve), SFTP: piped(server{}.serve)}, agent.Hello{})
		if err != nil {
			t.Fatal(err)
		}
		defer guest.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if _, err := guest.Client.Scan(ctx, []string{""}); err == nil {
			t.Error("a scan without an end ended")
		}
	})
}

// TestW26 swaps a folder of the host for a link while the guest writes into it.
func TestW26_W27_ParentSwappedForALink(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	os.Mkdir(outside, 0o755)
	p := newPair(t, dir)
	defer p.stop()
	write(t, p.host, "d/f", "0")
	p.must(t)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		os.Symlink(outside, filepath.Join(p.host, "l"))
		for !stop.Load() {
			os.Rename(filepath.Join(p.host, "d"), filepath.Join(p.host, "e"))
			os.Rename(filepath.Join(p.host, "l"), filepath.Join(p.host, "d"))
			os.Rename(filepath.Join(p.host, "d"), filepath.Join(p.host, "l"))
			os.Rename(filepath.Join(p.host, "e"), filepath.Join(p.host, "d"))
		}
	}()
	for i := range 2000 {
		p.e.g["d/f"] = tree.Entry{Kind: tree.File}
		have := p.e.h["d/f"]
		f, name, err := p.e.root.Stage()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(f, i)
		f.Close()
		step := tree.Action{Op: tree.Put, Side: tree.Host, Path: "d/f", Have: have, Want: tree.Entry{Kind: tree.File, Exec: true}}
		if _, err := p.e.host.Apply(context.Background(), stepsOf(step, name)); err != nil {
			t.Fatal(err)
		}
		p.e.host.Apply(context.Background(), stepsOf(tree.Action{Op: tree.Make, Side: tree.Host, Path: fmt.Sprint("d/", i)}, ""))
	}
	stop.Store(true)
	<-done
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("written outside: %v", left)
	}
}

func stepsOf(a tree.Action, staged string) []disk.Step {
	return []disk.Step{{Action: a, Staged: staged}}
}

func TestW05_WhatTheGuestSaysIsQuotedAndBounded(t *testing.T) {
	evil := strings.Repeat("\x1b[2J\n\u202e", 1000)
	_, st := against(t, hostile{entries: []map[string]any{{"p": []byte("f"), "k": tree.Unknown, "t": []byte(evil)}}}, nil)
	for _, h := range st.Held {
		if strings.ContainsAny(h.Reason, "\x1b\n\u202e") || len(h.Reason) > 2000 {
			t.Errorf("%q", h.Reason)
		}
	}
	_, st = against(t, hostile{answer: func(op string, id uint64) string {
		data, _ := json.Marshal(map[string]any{"id": id, "error": evil})
		return string(data)
	}}, nil)
	if strings.ContainsAny(st.Problem, "\x1b\n\u202e") || len(st.Problem) > 2000 {
		t.Errorf("%q", st.Problem)
	}
}

// Less is protected among packages: no link of the guest's makes that stand elsewhere.
func TestNoLinkIntoPackages(t *testing.T) {
	p, err := newPolicy(nil, nil, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"app": reasonOnTheWay, "node_modules/b": "", "apps/web/node_modules": ""} {
		link := tree.Entry{Kind: tree.Link, Target: "./node_modules/app"}
		if got := p.hold(name, tree.Entry{}, link); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
