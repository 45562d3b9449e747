package audit

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// maxField bounds a text field: a longest name and some words around it.
const maxField = 512

// key is what makes two entries the same line.
type key struct {
	kind                               Kind
	verdict, name, addr, proto, reason string
	rule, origin, method, path, policy string
	port                               uint16
}

// class shares a bound on distinct entries.
type class struct {
	kind    Kind
	verdict string
}

func (e Entry) key() key {
	return key{e.Kind, e.Verdict, e.Name, e.Addr, e.Proto, e.Reason, e.Rule, e.Origin, e.Method, e.Path, e.Policy, e.Port}
}

// times is how many events the entry stands for.
func (e Entry) times() int64 { return max(e.Count, 1) }

// merge adds a repetition.
func (e *Entry) merge(again Entry) {
	e.Time = again.Time
	e.Count += again.times()
	e.BytesUp += again.BytesUp
	e.BytesDown += again.BytesDown
	e.DurationMS += again.DurationMS
}

func (l *Log) tidy(e Entry) Entry {
	if e.Time.IsZero() {
		e.Time = l.opts.Now()
	}
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	if e.Sandbox == "" {
		e.Sandbox = l.opts.Sandbox
	}
	switch e.Verdict {
	case VerdictAllow, VerdictDeny:
	default:
		e.Verdict = "" // the bound on lost counts relies on few verdicts
	}
	for _, s := range []*string{&e.Sandbox, (*string)(&e.Kind), &e.Name, &e.Addr, &e.Proto, &e.Rule, &e.Origin, &e.Reason, &e.Method, &e.Path, &e.Policy} {
		*s = clean(*s)
	}
	return e
}

// clean cuts a text and makes what a terminal might obey visible, so that the
// log is safe to print for readers that decode the JSON as well.
func clean(s string) string {
	if len(s) > maxField {
		s = s[:maxField] + "…"
	}
	if strings.IndexFunc(s, unsafe) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == unicode.ReplacementChar && !strings.HasPrefix(s[i:], "\ufffd"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unsafe(r):
			fmt.Fprintf(&b, `\u{%x}`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unsafe finds control characters (C0, DEL, C1), invisible and bidirectional
// format characters, separators that break lines, and bytes that are no UTF-8.
func unsafe(r rune) bool {
	return r == unicode.ReplacementChar || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}
