package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxRefusals is how many paths a summary names.
	maxRefusals = 5
	// maxFilesLog bounds what is read of the log for a summary, in bytes.
	maxFilesLog = 4 << 20
)

// filesLogSize is where the file server's log ends now; what follows is of the session that begins.
func filesLogSize(box *sandbox) int64 {
	info, err := os.Stat(box.files.FilesLog())
	if err != nil {
		return 0
	}
	return info.Size()
}

// reportRefusals says on stderr which writes the file server refused since the log had that size. A log that
// was begun anew meanwhile is read from its beginning.
func (a *app) reportRefusals(box *sandbox, since int64) {
	f, err := os.Open(box.files.FilesLog())
	if err != nil {
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() < since {
		since = 0
	}
	if _, err := f.Seek(since, io.SeekStart); err != nil {
		return
	}
	count, paths, full := refusals(io.LimitReader(f, maxFilesLog))
	if count > 0 {
		fmt.Fprintln(a.Err, printable(refusalText(count, paths)))
	}
	if full {
		fmt.Fprintln(a.Err, "sbx: a folder's disk has no more room for the guest: free some, or set workspace.reserve in your config.yaml (sbx logs --kind files)")
	}
}

func refusalText(count int, paths []string) string {
	shown := paths[:min(len(paths), maxRefusals)]
	text := fmt.Sprintf("sbx: %d changes of protected or masked files were refused: %s", count, strings.Join(shown, ", "))
	if more := len(paths) - len(shown); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text + " (sbx logs --kind files)"
}

// refusals counts the refusals of a log and gives their paths, each once. A line counts for those that the log
// left out before it, too. full is whether the guest was refused room on the disk.
func refusals(log io.Reader) (count int, paths []string, full bool) {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		line := lines.Text()
		full = full || strings.Contains(line, `msg="no room for the guest: `)
		if !strings.Contains(line, "refused") || !strings.Contains(line, " path=") {
			continue
		}
		count += 1 + number(field(line, "left_out"))
		if path := field(line, "path"); path != "" && !slices.Contains(paths, path) && len(paths) < 1000 {
			paths = append(paths, path)
		}
	}
	return count, paths, full
}

// field is a value of a line of log/slog's text form.
func field(line, key string) string {
	_, rest, ok := strings.Cut(line, " "+key+"=")
	if !ok {
		return ""
	}
	if strings.HasPrefix(rest, `"`) {
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			if text, err := strconv.Unquote(quoted); err == nil {
				return text
			}
		}
	}
	value, _, _ := strings.Cut(rest, " ")
	return value
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0
	}
	return n
}
