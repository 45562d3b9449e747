package cli

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestW102_ReportAtTheEnd: what a session's file server refused is summed up, each path once, escaped.
func TestW102_ReportAtTheEnd(t *testing.T) {
	var log bytes.Buffer
	l := slog.New(slog.NewTextHandler(&log, nil))
	l.Info("started")
	l.Warn("write to a protected path refused", "export", "workspace", "path", ".git/hooks/x", "left_out", 0)
	l.Warn("write to a protected path refused", "export", "workspace", "path", ".git/hooks/x", "left_out", 3)
	l.Warn("change of a masked path refused", "export", "workspace", "path", "a \"b\"\x1b[2J/.env", "left_out", 0)
	count, paths, full := refusals(&log)
	if full || count != 6 || len(paths) != 2 || paths[0] != ".git/hooks/x" || paths[1] != "a \"b\"\x1b[2J/.env" {
		t.Errorf("%d refusals of %q", count, paths)
	}
	text := printable(refusalText(count, paths))
	if !strings.Contains(text, "6 changes") || !strings.Contains(text, ".git/hooks/x") || strings.ContainsRune(text, 0x1b) {
		t.Errorf("%q", text)
	}
	if text := refusalText(9, []string{"1", "2", "3", "4", "5", "6", "7"}); !strings.Contains(text, "and 2 more") {
		t.Errorf("%q", text)
	}
	if count, _, full := refusals(strings.NewReader("garbage\nrefused\nno room for the guest: \n")); count != 0 || full {
		t.Errorf("%d refusals in garbage", count)
	}
	l.Warn("no room for the guest: the rest of the disk is the host's", "export", "workspace", "free", 1, "reserve", 2, "left_out", 0)
	if count, _, full := refusals(&log); count != 0 || !full {
		t.Errorf("a full disk: %d refusals, %v", count, full)
	}
}
