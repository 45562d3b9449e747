package store

import (
	"syscall"
	"time"
)

// Identify gives the process with this pid, as it is now.
func Identify(pid int) Process { return Process{PID: pid, Start: startTime(pid)} }

// alive tells whether it is still that process.
func (p Process) alive() bool { return p.PID > 1 && p.Start != "" && startTime(p.PID) == p.Start }

// end kills the process if it is still the one meant, and waits for a moment
// until it is gone.
func (p Process) end() {
	if !p.alive() {
		return
	}
	syscall.Kill(p.PID, syscall.SIGKILL) //nolint:errcheck // it may have ended in between
	for begin := time.Now(); p.alive() && time.Since(begin) < time.Second; {
		time.Sleep(5 * time.Millisecond)
	}
}
