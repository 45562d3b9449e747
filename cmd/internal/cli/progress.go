package cli

import (
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows what takes time on a terminal's one line, and nothing where stderr
// is no terminal. It is safe for concurrent use and implements image.Progress.
type progress struct {
	app *app
	mu  sync.Mutex
	bar *progressbar.ProgressBar // nil between phases, and without a terminal
}

func (a *app) newProgress() *progress { return &progress{app: a} }

// Phase begins a part of the work that counts up to total bytes; 0: unknown.
func (p *progress) Phase(name string, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
	if !isTerminal(p.app.Err) {
		return
	}
	if total <= 0 {
		total = -1 // a spinner
	}
	p.bar = newBar(p.app.Err, printable(name), total)
}

func newBar(w io.Writer, name string, total int64) *progressbar.ProgressBar {
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(name),
		progressbar.OptionShowBytes(total > 0),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionSpinnerType(14),
		progressbar.OptionSetWidth(24),
		progressbar.OptionClearOnFinish(),
	)
}

// Add counts bytes of the current phase.
func (p *progress) Add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.bar.Add64(n) //nolint:errcheck // a terminal that went away is no reason to stop
	}
}

// Warn says what the user should know although the work goes on.
func (p *progress) Warn(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.app.warn(text)
}

// Close ends the line.
func (p *progress) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finish()
}

func (p *progress) clear() {
	if p.bar != nil {
		p.bar.Clear() //nolint:errcheck // as in Add
	}
}

func (p *progress) finish() {
	if p.bar != nil {
		p.bar.Exit() //nolint:errcheck // as in Add
	}
	p.clear()
	p.bar = nil
}
