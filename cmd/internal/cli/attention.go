package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/sbx-vm/sbx/machine/control"
	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

const (
	// screenQuiet is how long a program must have written nothing before something is put between: it is
	// longer than the gap inside one redraw.
	screenQuiet = 50 * time.Millisecond
	// screenPatience is how long a program that never rests is waited for. Once again that time is waited for
	// one that stopped inside an escape sequence.
	screenPatience = time.Second
	// maxTail is how much of a program's output is kept to tell whether it ends inside an escape sequence.
	maxTail = 4 << 10
	// maxTitleName is how much of a name stands in a title, which is one line of a narrow tab.
	maxTitleName = 80
)

// screen is the terminal that a program of the guest draws on. What sbx itself has to say there shows
// outside the picture and comes between two pieces of the program's output, not inside an escape sequence.
type screen struct {
	mu   sync.Mutex
	w    io.Writer
	last time.Time // of the program's output
	tail []byte    // its end
}

// Write passes the program's output on.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
	s.tail = append(s.tail, p[max(0, len(p)-maxTail):]...)
	s.tail = append(s.tail[:0], s.tail[max(0, len(s.tail)-maxTail):]...)
	return s.w.Write(p)
}

// put writes text whole as soon as the program rests, or after a while if it does not.
func (s *screen) put(ctx context.Context, text string) error {
	const step = 10 * time.Millisecond
	for begin := time.Now(); ; {
		if done, err := s.tryPut(text, time.Since(begin)); done {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(step):
		}
	}
}

func (s *screen) tryPut(text string, waited time.Duration) (done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rests := time.Since(s.last) >= screenQuiet || waited >= screenPatience
	if (!rests || endsMidway(s.tail)) && waited < 2*screenPatience {
		return false, nil
	}
	_, err = io.WriteString(s.w, text)
	return true, err
}

// endsMidway tells whether output ends inside an escape sequence (ECMA-48, 5.3 to 5.6) or a character. A string
// that is longer than what is kept is not noticed.
func endsMidway(tail []byte) bool {
	start := bytes.LastIndexByte(tail, '\x1b')
	if start < 0 {
		return cutCharacter(tail)
	}
	rest := tail[start+1:]
	if len(rest) == 0 {
		return true
	}
	switch c := rest[0]; {
	case c == '[':
		return !bytes.ContainsFunc(rest[1:], func(r rune) bool { return r >= '@' && r <= '~' }) || cutCharacter(rest)
	case strings.IndexByte("]PX^_", c) >= 0:
		return !bytes.Contains(rest, []byte{'\a'}) || cutCharacter(rest) // its other end is ESC \, which would be the last one
	case c >= ' ' && c <= '/' && len(rest) == 1:
		return true
	default:
		return cutCharacter(rest)
	}
}

// cutCharacter tells whether the last character of UTF-8 is incomplete.
func cutCharacter(p []byte) bool {
	for i := 1; i <= min(len(p), utf8.UTFMax); i++ {
		if c := p[len(p)-i:]; utf8.RuneStart(c[0]) {
			return !utf8.FullRune(c)
		}
	}
	return false
}

// attention tells of questions where the terminal is a program's: by the bell, the window's title (OSC 2) and
// a notification (OSC 9), which terminals that do not know it leave out.
type attention struct {
	screen *screen
	title  string // that stands there, ours
	rang   uint64 // the last question that rang
}

// watch tells of questions until ctx ends or wait fails, and takes its title away then.
func (t *attention) watch(ctx context.Context, wait func(ctx context.Context, seen uint64) (control.Pending, error)) {
	defer t.clear()
	for seen := uint64(0); ; {
		pending, err := wait(ctx, seen)
		if err != nil {
			return
		}
		if err := t.show(ctx, pending.Questions); err != nil {
			return
		}
		seen = pending.Seen
	}
}

func (t *attention) show(ctx context.Context, questions []control.Question) error {
	title, ring := "", false
	for _, q := range questions {
		ring = ring || q.ID > t.rang
		t.rang = max(t.rang, q.ID)
	}
	if n := len(questions); n > 0 {
		title = titleOf(questions[n-1], n-1)
	}
	if title == t.title && !ring {
		return nil
	}
	text := setTitle(title)
	if ring {
		text += "\x1b]9;" + title + "\a\a"
	}
	t.title = title // before it is there: to take away what never came does no harm
	return t.screen.put(ctx, text)
}

// clear leaves no title of ours behind.
func (t *attention) clear() {
	if t.title == "" {
		return
	}
	t.title = ""
	// The program has ended, or the supervisor has: there is nothing to wait for.
	_, _ = t.screen.tryPut(setTitle(""), 2*screenPatience) // a terminal that went away has no title
}

func setTitle(text string) string { return "\x1b]2;" + text + "\a" }

// titleOf is a question as a title, in characters that mean nothing to a terminal.
func titleOf(q control.Question, more int) string {
	name := strings.Map(func(r rune) rune {
		if r > '~' || r <= ' ' || r == ';' {
			return '?'
		}
		return r
	}, q.Name)
	if len(name) > maxTitleName {
		name = "..." + name[len(name)-maxTitleName:] // its end says whose it is
	}
	text := "sbx: " + hostPort(name, q.Port)
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text + "? sbx policy pending"
}

// watchQuestions tells of questions as the terminal allows while a command runs; out is where the command's
// output goes then. stop ends it and returns when nothing more is written.
func (a *app) watchQuestions(ctx context.Context, box *sandbox, tty bool) (out io.Writer, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	out = a.Out
	switch {
	case tty && isTerminal(a.Out) && a.getenv("TERM") != "dumb":
		s := &screen{w: a.Out}
		out = s
		watching.Go(func() { (&attention{screen: s}).watch(ctx, box.client.WaitPending) })
	case !tty && isTerminal(a.Err):
		watching.Go(func() { a.tellQuestions(ctx, box) })
	}
	return out, func() { cancel(); watching.Wait() }
}

// reportUnanswered says on stderr what was asked while a program had the terminal and got no answer: nobody
// could read the question. What the network denied a command that failed has it already.
func (a *app) reportUnanswered(ctx context.Context, box *sandbox, since time.Time, failed bool) {
	if !failed {
		if entries, err := box.client.Denials(ctx, since); err == nil {
			a.printDenials(unanswered(entries))
		}
	}
	if pending, err := box.client.Pending(ctx); err == nil {
		for _, q := range pending.Questions {
			a.tellQuestion(q)
		}
	}
}

func unanswered(entries []audit.Entry) []audit.Entry {
	var out []audit.Entry
	for _, entry := range entries {
		if entry.Reason == netfilter.ReasonNoAnswer {
			out = append(out, entry)
		}
	}
	return out
}
